// The routes of the server that fastkv takes the place of, in Go on fasthttp: maps in shards chosen by djb2,
// each behind a sync.RWMutex; JSON by encoding/json.
//
//	original [PORT]    serves on 127.0.0.1, port 7171 unless told otherwise; GOMAXPROCS says on how many CPUs
package main

import (
	"encoding/json"
	"log"
	"os"
	"sync"

	"github.com/valyala/fasthttp"
)

const shardCount = 256

type shard struct {
	sync.RWMutex
	entries map[string]string
}

type entry struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

type found struct {
	Status string `json:"status"`
	Key    string `json:"key"`
	Value  string `json:"value"`
}

type message struct {
	Status  string `json:"status"`
	Message string `json:"message"`
}

var shards [shardCount]shard

// shardOf picks a shard by Bernstein's hash, djb2.
func shardOf(key string) *shard {
	hash := uint32(5381)
	for i := 0; i < len(key); i++ {
		hash = hash*33 + uint32(key[i])
	}
	return &shards[hash%shardCount]
}

func reply(ctx *fasthttp.RequestCtx, status int, body interface{}) {
	text, err := json.Marshal(body)
	if err != nil {
		ctx.Error(err.Error(), fasthttp.StatusInternalServerError)
		return
	}
	ctx.SetStatusCode(status)
	ctx.SetContentType("application/json")
	ctx.SetBody(text)
}

func refuse(ctx *fasthttp.RequestCtx, status int, why string) {
	reply(ctx, status, message{"ERROR", why})
}

func put(ctx *fasthttp.RequestCtx) {
	var given entry
	if err := json.Unmarshal(ctx.PostBody(), &given); err != nil || given.Key == "" {
		refuse(ctx, fasthttp.StatusBadRequest, "The body has to be an object with key and value.")
		return
	}
	place := shardOf(given.Key)
	place.Lock()
	place.entries[given.Key] = given.Value
	place.Unlock()
	reply(ctx, fasthttp.StatusOK, message{"OK", "Key inserted/updated successfully."})
}

func get(ctx *fasthttp.RequestCtx, key string) {
	place := shardOf(key)
	place.RLock()
	value, there := place.entries[key]
	place.RUnlock()
	if !there {
		refuse(ctx, fasthttp.StatusNotFound, "Key not found.")
		return
	}
	reply(ctx, fasthttp.StatusOK, found{"OK", key, value})
}

func remove(ctx *fasthttp.RequestCtx, key string) {
	place := shardOf(key)
	place.Lock()
	_, there := place.entries[key]
	delete(place.entries, key)
	place.Unlock()
	if !there {
		refuse(ctx, fasthttp.StatusNotFound, "Key not found.")
		return
	}
	reply(ctx, fasthttp.StatusOK, message{"OK", "Key deleted successfully."})
}

func handle(ctx *fasthttp.RequestCtx) {
	path := string(ctx.Path())
	if path == "/put" && (ctx.IsPost() || ctx.IsPut()) {
		put(ctx)
		return
	}
	key := string(ctx.QueryArgs().Peek("key"))
	switch {
	case path == "/get" && ctx.IsGet() && key != "":
		get(ctx, key)
	case path == "/delete" && ctx.IsDelete() && key != "":
		remove(ctx, key)
	case path == "/get" || path == "/delete":
		refuse(ctx, fasthttp.StatusBadRequest, "Key parameter is required.")
	default:
		refuse(ctx, fasthttp.StatusNotFound, "There is no such route.")
	}
}

func main() {
	port := "7171"
	if len(os.Args) > 1 {
		port = os.Args[1]
	}
	for i := range shards {
		shards[i].entries = make(map[string]string)
	}
	log.Fatal(fasthttp.ListenAndServe("127.0.0.1:"+port, handle))
}
