"""The machine below the server: kernel settings and limits, judged, changed, verified and put back.

From the bottom up: `sysctl` reads and writes single values, `profile` knows what is wanted and why,
`plan` judges one against the other, `journal` remembers what was there, `tuning` changes and undoes,
`limits` raises the process's own, `report` and `equivalents` say it to a person.
"""
