"""Instructions of a request, counted by callgrind: what a change costs, whatever else the machine does."""
