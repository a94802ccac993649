// Package sidelock takes locks over processes and hosts from the sidelockd of this host.
//
//	lock, err := sidelock.Acquire(ctx, "orders", sidelock.Options{Wait: 5 * time.Second})
//	if err != nil { … }
//	defer lock.Release()
package sidelock

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"
)

// Options is how to hold a lock. The zero value waits without limit, alone.
type Options struct {
	// Wait is how long to wait; 0: without limit.
	Wait time.Duration
	// Try does not wait at all.
	Try bool
	// Shared holds the lock with others who share it.
	Shared bool
	// Permits takes one permit of a semaphore of so many.
	Permits int
	// MaxHold is after what time the hold ends.
	MaxHold time.Duration
	// Owner gets at once what it holds; without one who holds a lock waits for himself.
	Owner string
	// Meta is a note that others see.
	Meta string
	// Enforce is what the daemon does to this process when the lock is lost: "terminate" or "kill".
	Enforce string
	// Replicas is how many replicas of Redis have to have the lease; 0: as many as the daemon's settings say.
	Replicas int
	// Durability is where the primary and those replicas have to have it: "memory" or "disk".
	Durability string
	// OnLost, OnWaiting and OnContended are called by the goroutine that reads, which they must not keep.
	OnLost      func(Loss)
	OnWaiting   func(Waiting)
	OnContended func(waiters int)
}

// Waiting is what an acquire that waits is told.
type Waiting struct {
	ID       int64    `json:"id"`
	Name     string   `json:"name"`
	Position int      `json:"position"`
	Holders  []Holder `json:"holders"`
	Detail   string   `json:"detail"`
}

// Event is what happens to a lock that is watched. The Kind is "ended" when the connection has ended.
type Event struct {
	Watch   int64  `json:"watch"`
	Kind    string `json:"kind"`
	Name    string `json:"name"`
	Session string `json:"session"`
	Token   int64  `json:"token"`
	Mode    string `json:"mode"`
	Reason  string `json:"reason"`
	Host    string `json:"host"`
	Waiters int    `json:"waiters"`
	State   string `json:"state"`
	Count   int    `json:"count"`
}

// Client is a connection that all goroutines share, made when it is needed, and again when it has ended.
type Client struct {
	// Path is the daemon's socket; empty: where the sidelock command looks for it.
	Path string
	// Patience is how long the daemon may leave a request unanswered, beyond what was to be waited; 0: 5 s.
	Patience time.Duration

	mutex      sync.Mutex
	connection *connection
	accept     func(*Lock)
}

// Default is the client of the package's functions.
var Default = &Client{}

// Acquire takes a lock with the default client.
func Acquire(ctx context.Context, name string, options Options) (*Lock, error) {
	return Default.Acquire(ctx, options, name)
}

// Do runs body while the lock is held, with the default client.
func Do(ctx context.Context, name string, options Options, body func(context.Context, *Lock) error) error {
	return Default.Do(ctx, options, body, name)
}

func (c *Client) connected() (*connection, error) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if now := c.connection; now != nil {
		now.mutex.Lock()
		broken := now.isBroken
		now.mutex.Unlock()
		if !broken {
			return now, nil
		}
	}
	patience := c.Patience
	if patience == 0 {
		patience = 5 * time.Second
	}
	made, err := dial(SocketPath(c.Path), patience)
	if err != nil {
		return nil, err
	}
	if c.accept != nil {
		made.onTransferred = c.transferred(made, c.accept)
	}
	if err := made.initialize(c.accept != nil); err != nil {
		_ = made.socket.Close()
		return nil, err
	}
	c.connection = made
	return made, nil
}

// start sends a request, over a new connection where the daemon had closed the old one before.
func (c *Client) start(method string, params map[string]any, set func(*request)) (*connection, *request, error) {
	for attempt := 0; ; attempt++ {
		made, err := c.connected()
		if err != nil {
			return nil, nil, err
		}
		r := made.start(method, params, set)
		if !r.isUnsent || attempt > 0 {
			return made, r, nil
		}
		select {
		case <-r.done: // What the daemon said last has been read.
		case <-time.After(made.patience):
		}
	}
}

// Call is any method of the protocol.
func (c *Client) Call(method string, params map[string]any) (json.RawMessage, error) {
	if params == nil {
		params = map[string]any{}
	}
	made, r, err := c.start(method, params, nil)
	if err != nil {
		return nil, err
	}
	return made.finish(r, 0, nil)
}

// Acquire takes one lock, or several all or none. When ctx is done the wait is withdrawn; the error is ErrCancelled.
func (c *Client) Acquire(ctx context.Context, options Options, names ...string) (*Lock, error) {
	if err := ctx.Err(); err != nil {
		return nil, failure("cancelled", "%v", err)
	}
	params, wait := map[string]any{"names": names}, time.Duration(-1)
	if len(names) == 1 {
		params = map[string]any{"name": names[0]}
	}
	if options.Try {
		wait = 0
	} else if options.Wait > 0 {
		wait = options.Wait
	}
	if wait >= 0 {
		params["wait_ms"] = milliseconds(wait)
	}
	if options.Shared {
		params["mode"] = "shared"
	}
	if options.Permits > 0 {
		params["permits"] = options.Permits
	}
	if options.MaxHold > 0 {
		params["max_hold_ms"] = milliseconds(options.MaxHold)
	}
	if options.Replicas > 0 {
		params["replicas"] = options.Replicas
	}
	for key, value := range map[string]string{
		"owner": options.Owner, "meta": options.Meta, "on_lost": options.Enforce, "durability": options.Durability,
	} {
		if value != "" {
			params[key] = value
		}
	}
	if options.OnWaiting != nil || options.OnContended != nil {
		params["progress"] = true
	}
	l := newLock(names, options)
	made, r, err := c.start("acquire", params, func(r *request) { r.lock = l })
	if err != nil {
		return nil, err
	}
	l.connection = made
	if _, err := made.finish(r, wait, ctx.Done()); err != nil {
		return nil, err
	}
	return l, nil
}

// Do runs body while the locks are held. Its context is cancelled when one is lost; the error is ErrLost then, unless the
// body failed by itself.
func (c *Client) Do(ctx context.Context, options Options, body func(context.Context, *Lock) error, names ...string) (err error) {
	l, err := c.Acquire(ctx, options, names...)
	if err != nil {
		return err
	}
	scope, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		select {
		case <-l.Done():
			stop()
		case <-scope.Done():
		}
	}()
	finished := false
	defer func() {
		// Also when the body panics.
		releaseErr := l.Release()
		if errors.Is(releaseErr, ErrNotHeld) {
			releaseErr = nil // The body has released it itself, or handed it on.
		}
		if finished && (err == nil || errors.Is(err, context.Canceled) && l.Loss() != nil) {
			err = releaseErr
		}
	}()
	err = body(scope, l)
	finished = true
	return err
}

// Locker is the lock as a sync.Locker. Lock and Unlock panic when they fail: a sync.Locker cannot say so.
func (c *Client) Locker(name string, options Options) sync.Locker {
	return &locker{client: c, name: name, options: options}
}

type locker struct {
	client  *Client
	name    string
	options Options
	// The hold of whoever is between Lock and Unlock.
	lock *Lock
}

func (l *locker) Lock() {
	made, err := l.client.Acquire(context.Background(), l.options, l.name)
	if err != nil {
		panic(err)
	}
	l.lock = made
}

func (l *locker) Unlock() {
	if err := l.lock.Release(); err != nil {
		panic(err)
	}
}

// Watch tells what happens to a lock, or with prefix to all whose name begins alike.
func (c *Client) Watch(name string) (*Watch, error) { return c.watch(map[string]any{"name": name}) }

// WatchPrefix tells what happens to all locks whose name begins alike.
func (c *Client) WatchPrefix(prefix string) (*Watch, error) {
	return c.watch(map[string]any{"prefix": prefix})
}

func (c *Client) watch(params map[string]any) (*Watch, error) {
	w := &Watch{wake: make(chan struct{}, 1)}
	made, r, err := c.start("watch", params, func(r *request) { r.events = w.push })
	if err != nil {
		return nil, err
	}
	result, err := made.finish(r, 0, nil)
	if err != nil {
		return nil, err
	}
	var told Event
	_ = json.Unmarshal(result, &told)
	w.connection, w.number = made, told.Watch
	return w, nil
}

// Session is the daemon's name for this client; others transfer locks to it.
func (c *Client) Session() (string, error) {
	made, err := c.connected()
	if err != nil {
		return "", err
	}
	return made.session, nil
}

// AcceptTransfers lets others hand over locks; accept gets each, held, and must not keep the goroutine that reads.
func (c *Client) AcceptTransfers(accept func(*Lock)) error {
	c.mutex.Lock()
	c.accept = accept
	c.mutex.Unlock()
	made, err := c.connected()
	if err != nil {
		return err
	}
	made.locked(func() { made.onTransferred = c.transferred(made, accept) })
	_, err = made.call("initialize", map[string]any{"accept_transfers": true})
	return err
}

func (c *Client) transferred(made *connection, accept func(*Lock)) func(transferred) {
	return func(told transferred) {
		l := newLock([]string{told.Name}, Options{})
		l.tokens[told.Name], l.has[told.Name] = told.Token, told.Token
		l.mode, l.state, l.connection = told.Mode, held, made
		if made.leaseMS != nil {
			// Nothing is known of how long it is good: that is asked at once, and meanwhile it counts for what an answer may take.
			l.isTimed, l.span = true, span(*made.leaseMS)
			l.deadline = now() + answerTime(l.span)
		}
		made.register(l)
		made.calls = append(made.calls, func() { accept(l) })
	}
}

// Close gives everything back. The client may be used again.
func (c *Client) Close() error {
	c.mutex.Lock()
	made := c.connection
	c.connection = nil
	c.mutex.Unlock()
	if made == nil {
		return nil
	}
	err := made.socket.Close()
	<-made.ended
	return err
}

// milliseconds are rounded up, so that a short wait is no try.
func milliseconds(d time.Duration) int64 {
	whole := d / time.Millisecond
	if d > whole*time.Millisecond {
		whole++
	}
	return int64(whole)
}
