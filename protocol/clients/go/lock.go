package sidelock

import (
	"errors"
	"sync"
	"time"
)

type state int

const (
	waiting state = iota
	held
	released
	lost
)

// Lock is a lock, or several that were taken all or none, that was granted.
type Lock struct {
	Names      []string
	options    Options
	connection *connection
	done       chan struct{}

	// The rest belongs to the connection's mutex.
	state    state
	loss     *Loss
	mode     string
	tokens   map[string]int64
	has      map[string]int64
	isTimed  bool
	deadline time.Duration
	span     time.Duration
}

func newLock(names []string, options Options) *Lock {
	return &Lock{Names: names, options: options, done: make(chan struct{}), tokens: map[string]int64{}, has: map[string]int64{}}
}

func (l *Lock) cancel() { close(l.done) }

// Done is closed when the lock is lost.
func (l *Lock) Done() <-chan struct{} { return l.done }

// Token is the fencing token: send it along with every write. It is that of the first name.
func (l *Lock) Token() int64 { return l.TokenOf(l.Names[0]) }

// TokenOf is the token of a name.
func (l *Lock) TokenOf(name string) int64 {
	l.connection.mutex.Lock()
	defer l.connection.mutex.Unlock()
	return l.tokens[name]
}

// Mode is exclusive, shared or permit.
func (l *Lock) Mode() string {
	l.connection.mutex.Lock()
	defer l.connection.mutex.Unlock()
	return l.mode
}

// Held tells whether the lock is held, as far as this process has been told; no longer than it is good without an answer of the
// daemon.
func (l *Lock) Held() bool {
	l.confirm()
	l.connection.mutex.Lock()
	defer l.connection.mutex.Unlock()
	return l.state == held && !l.isOver()
}

// isOver tells whether its time is over: it is not to be believed then until the daemon has answered. With the mutex held.
func (l *Lock) isOver() bool { return l.state == held && l.isTimed && l.deadline <= now() }

func (l *Lock) confirm() {
	l.connection.mutex.Lock()
	isOver, span := l.isOver(), l.span
	l.connection.mutex.Unlock()
	if isOver {
		l.connection.confirm(span)
	}
}

// Loss is how the lock was lost; nil if it was not.
func (l *Lock) Loss() *Loss {
	l.connection.mutex.Lock()
	defer l.connection.mutex.Unlock()
	return l.loss
}

// Err is ErrLost if the lock was lost, ErrNotHeld if it is not held, and ErrUnavailable where its time is over and the daemon has not
// said yet that it is still held.
func (l *Lock) Err() error {
	l.confirm()
	l.connection.mutex.Lock()
	defer l.connection.mutex.Unlock()
	if l.loss != nil {
		return lossError(*l.loss)
	}
	if l.state != held {
		return failure("not_held", "lock %s is not held here", l.Names[0])
	}
	if l.isOver() {
		return failure("no_answer", "the time of lock %s is over, and the daemon has not said yet that it is still held", l.Names[0])
	}
	return nil
}

// Valid is for how long from now the hold is good for certain; false: it does not end by itself.
func (l *Lock) Valid() (time.Duration, bool) {
	l.connection.mutex.Lock()
	defer l.connection.mutex.Unlock()
	if l.state != held {
		return 0, true
	}
	return max(0, l.deadline-now()), l.isTimed
}

// OnLost sets what is called when the lock is lost, which for a lock that was transferred is not known before.
func (l *Lock) OnLost(call func(Loss)) {
	l.connection.locked(func() { l.options.OnLost = call })
}

// Release gives the lock back. The error is ErrLost if it was lost before.
func (l *Lock) Release() error {
	c := l.connection
	var requests []*request
	isHeld := false
	c.locked(func() {
		isHeld = l.state == held || l.state == lost
		if !isHeld || c.hasEnded {
			return
		}
		for name, token := range l.has {
			r := &request{method: "release", done: make(chan struct{}), lock: l, released: pair{name, token}}
			c.begin(r, map[string]any{"name": name, "token": token})
			requests = append(requests, r)
		}
	})
	if !isHeld {
		return failure("not_held", "lock %s is not held here", l.Names[0])
	}
	var err error
	for _, r := range requests {
		if _, failed := c.finish(r, 0, nil); failed != nil && err == nil {
			err = failed
		}
	}
	c.locked(func() {
		for _, r := range requests {
			c.forget(l, r.released)
		}
		l.state = released
	})
	var refused *Error
	if loss := l.Loss(); loss != nil {
		return lossError(*loss)
	} else if errors.As(err, &refused) && refused.Reason == "lost" {
		return lossError(Loss{Name: l.Names[0], Token: l.Token(), Reason: refused.lost})
	}
	return err
}

// Downgrade shares from now on what was held alone.
func (l *Lock) Downgrade() error {
	err := l.ofOne("downgrade", map[string]any{})
	if err == nil {
		l.connection.locked(func() { l.mode = "shared" })
	}
	return err
}

// Extend sets anew after what time from now the hold ends; 0: it does not.
func (l *Lock) Extend(maxHold time.Duration) error {
	if maxHold == 0 {
		return l.ofOne("extend", map[string]any{"max_hold_ms": nil})
	}
	return l.ofOne("extend", map[string]any{"max_hold_ms": milliseconds(maxHold)})
}

// Transfer hands the lock to another session of this host, which must have asked for it.
func (l *Lock) Transfer(session string) error {
	err := l.ofOne("transfer", map[string]any{"session": session})
	if err == nil {
		l.connection.locked(func() {
			l.connection.forget(l, pair{l.Names[0], l.tokens[l.Names[0]]})
			l.state = released
		})
	}
	return err
}

func (l *Lock) ofOne(method string, params map[string]any) error {
	if err := l.Err(); err != nil {
		return err
	}
	if len(l.Names) != 1 {
		return failure("invalid_params", "%s is for one lock at a time", method)
	}
	params["name"], params["token"] = l.Names[0], l.Token()
	_, err := l.connection.call(method, params)
	if loss := l.Loss(); err != nil && loss != nil {
		return lossError(*loss)
	}
	return err
}

// Watch gives the events of a watch.
type Watch struct {
	connection *connection
	number     int64
	mutex      sync.Mutex
	events     []Event
	hasEnded   bool
	wake       chan struct{}
}

func (w *Watch) push(event Event) {
	w.mutex.Lock()
	w.events = append(w.events, event)
	w.mutex.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Next waits for the next event; false: there will be none. The last one has the kind "ended" when the connection has.
func (w *Watch) Next() (Event, bool) {
	for {
		w.mutex.Lock()
		if w.hasEnded {
			w.mutex.Unlock()
			return Event{}, false
		}
		if len(w.events) > 0 {
			event := w.events[0]
			w.events = w.events[1:]
			w.hasEnded = event.Kind == "ended"
			w.mutex.Unlock()
			return event, true
		}
		w.mutex.Unlock()
		<-w.wake
	}
}

// Close ends the watch.
func (w *Watch) Close() error {
	isWatched := false
	w.connection.locked(func() {
		_, isWatched = w.connection.watches[w.number]
		delete(w.connection.watches, w.number)
	})
	w.mutex.Lock()
	w.hasEnded = true
	w.mutex.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
	if !isWatched {
		return nil
	}
	_, err := w.connection.call("unwatch", map[string]any{"watch": w.number})
	return err
}
