package sidelock

import (
	"context"
	"math"
	"testing"
	"time"
)

// What Go has beside the conformance suite, with a daemon at SIDELOCK_SOCKET: text that is none, and long times.

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
