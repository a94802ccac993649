package main

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"time"
)

const script = `if redis.call("GET", KEYS[1]) == ARGV[1] then return redis.call("DEL", KEYS[1]) else return 0 end`

var server net.Conn
var buffer [4096]byte

func ask(expected string, words ...string) {
	line := []byte(fmt.Sprintf("*%d\r\n", len(words)))
	for _, word := range words {
		line = append(line, fmt.Sprintf("$%d\r\n%s\r\n", len(word), word)...)
	}
	server.Write(line)
	if count, err := server.Read(buffer[:]); err != nil || string(buffer[:count]) != expected {
		panic(string(buffer[:count]))
	}
}

func main() {
	server, _ = net.Dial("unix", os.Getenv("CYCLES_REDIS"))
	seconds, _ := strconv.ParseFloat(os.Getenv("CYCLES_SECONDS"), 64)
	end, count := time.Now().Add(time.Duration(seconds*1e9)), 0
	for ; time.Now().Before(end); count++ {
		ask("+OK\r\n", "SET", "raw", "mine", "NX", "PX", "30000")
		ask(":1\r\n", "EVAL", script, "1", "raw", "mine")
	}
	fmt.Println(count)
}
