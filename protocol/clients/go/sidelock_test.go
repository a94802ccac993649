package sidelock

import (
	"context"
	"math"
	"runtime"
	"testing"
	"time"
)

// What Go has beside the conformance suite, with a daemon at SIDELOCK_SOCKET: text that is none, long times, and memory.

func reason(err error) string {
	if refused, is := err.(*Error); is {
		return refused.Reason
	}
	return ""
}

func TestTextThatIsNoneIsRefused(t *testing.T) {
	for _, names := range [][]string{{"\xff"}, {"fine", "\xff"}} {
		if _, err := (&Client{}).Acquire(context.Background(), Options{Try: true}, names...); reason(err) != "invalid_params" {
			t.Errorf("%q: %v", names, err)
		}
	}
}

func TestTimesAreRoundedUpAndDoNotOverflow(t *testing.T) {
	for d, want := range map[time.Duration]int64{0: 0, 1: 1, time.Millisecond: 1, time.Millisecond + 1: 2, -1: 0, math.MaxInt64: 9223372036855} {
		if got := milliseconds(d); got != want {
			t.Errorf("%v: %d and not %d", d, got, want)
		}
	}
}

func TestLongWaitsLeaveNothingBehind(t *testing.T) {
	client := &Client{}
	defer client.Close()
	objects := func() uint64 {
		var memory runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&memory)
		return memory.HeapObjects
	}
	cycles := func() {
		for cycle := 0; cycle < 1000; cycle++ {
			lock, err := client.Acquire(context.Background(), Options{Wait: time.Hour}, "kept")
			if err == nil {
				err = lock.Release()
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	cycles()
	before := objects()
	cycles()
	if after := objects(); after > before+1000 {
		t.Errorf("%d objects more", after-before)
	}
}
