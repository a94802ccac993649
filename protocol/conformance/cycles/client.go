package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"sidelock"
)

func main() {
	seconds, _ := strconv.ParseFloat(os.Getenv("CYCLES_SECONDS"), 64)
	end, count := time.Now().Add(time.Duration(seconds*1e9)), 0
	for ; time.Now().Before(end); count++ {
		lock, err := sidelock.Acquire(context.Background(), "cycles", sidelock.Options{})
		if err == nil {
			err = lock.Release()
		}
		if err != nil {
			panic(err)
		}
	}
	fmt.Println(count)
}
