package sidelock

import (
	"bufio"
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unicode/utf8"
	"unsafe"
)

const (
	lineBytesMax = 65536
	// Of a line that has not ended; what is longer comes from no daemon.
	unendedBytesMax = 1 << 20
	// Of more holds than these a ping does not say how long they are valid.
	holdsToldMax = 64
	clockBoot    = 7
)

// now is the time on a clock that goes on while the machine is suspended, and that nobody sets.
func now() time.Duration {
	var at syscall.Timespec
	_, _, _ = syscall.Syscall(syscall.SYS_CLOCK_GETTIME, clockBoot, uintptr(unsafe.Pointer(&at)), 0)
	return time.Duration(at.Nano())
}

// SocketPath is where the daemon listens: explicit, $SIDELOCK_SOCKET, the user's own daemon if there is one, the system's.
func SocketPath(explicit string) string {
	if explicit != "" {
		return explicit
	}
	if path := os.Getenv("SIDELOCK_SOCKET"); path != "" {
		return path
	}
	if directory := os.Getenv("XDG_RUNTIME_DIR"); directory != "" {
		own := directory + "/sidelock/sidelock.sock"
		if _, err := os.Stat(own); err == nil || errors.Is(err, fs.ErrPermission) {
			return own
		}
	}
	return "/run/sidelock/sidelock.sock"
}

type pair struct {
	name  string
	token int64
}

type request struct {
	id          int64
	method      string
	sent        time.Duration
	lock        *Lock
	released    pair
	events      func(Event)
	done        chan struct{}
	isAnswered  bool
	isAbandoned bool
	isUnsent    bool
	result      json.RawMessage
	err         *Error
}

// connection is a socket, the goroutine that reads it, and what waits for answers, holds and watches on it.
type connection struct {
	socket   *net.UnixConn
	patience time.Duration
	ended    chan struct{}

	mutex         sync.Mutex
	requests      map[int64]*request
	holdings      map[pair][]*Lock
	watches       map[int64]func(Event)
	onTransferred func(transferred)
	calls         []func()
	hasEnded      bool
	isBroken      bool
	session       string
	leaseMS       *int64
	last          int64
	fault         *Error
	ping          *request
	noPingBefore  time.Duration
	// How many are just calling the user's functions.
	telling atomic.Int32
	timer         *time.Timer
}

func dial(path string, patience time.Duration) (*connection, error) {
	dialer := net.Dialer{Timeout: patience}
	// The net package sets close-on-exec.
	socket, err := dialer.Dial("unix", path)
	var timeout net.Error
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, failure("permission", "the permissions of %s keep this user out", path)
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, syscall.EAGAIN):
		return nil, failure("no_answer", "the daemon at %s does not take connections; it may hang", path)
	case err != nil:
		return nil, failure("no_daemon", "no daemon at %s: %v", path, err)
	}
	c := &connection{socket: socket.(*net.UnixConn), patience: patience, ended: make(chan struct{}),
		requests: map[int64]*request{}, holdings: map[pair][]*Lock{}, watches: map[int64]func(Event){}}
	go c.read()
	return c, nil
}

func (c *connection) initialize(accepts bool) error {
	params := map[string]any{"protocol": 1, "lifetime": "process",
		"client": map[string]string{"name": strings.ToValidUTF8(filepath.Base(os.Args[0]), "?")}}
	if accepts {
		params["accept_transfers"] = true
	}
	_, err := c.call("initialize", params)
	var refused *Error
	if errors.As(err, &refused) && strings.Contains(string(refused.Data), `"lifetime"`) {
		// The daemon cannot see this process, as from a container.
		delete(params, "lifetime")
		_, err = c.call("initialize", params)
	}
	return err
}

// locked runs an action with the mutex held, and then what the user is to be told.
func (c *connection) locked(action func()) {
	c.mutex.Lock()
	action()
	calls := c.calls
	c.calls = nil
	c.mutex.Unlock()
	if len(calls) == 0 {
		return
	}
	c.telling.Add(1)
	defer c.telling.Add(-1)
	for _, call := range calls {
		call()
	}
}

// confirm waits, of a hold whose time is over, until the daemon has said how long it is good, or it is lost. Not while the user's
// functions are called, for which nothing may be read.
func (c *connection) confirm(span time.Duration) {
	if c.telling.Load() > 0 {
		return
	}
	c.locked(c.tick)
	timer := time.NewTimer(answerTime(span))
	defer timer.Stop()
	select {
	case <-c.start("ping", map[string]any{}, nil).done:
	case <-timer.C:
	}
	c.locked(c.tick)
}

// start sends a request.
func (c *connection) start(method string, params map[string]any, set func(*request)) *request {
	r := &request{method: method, done: make(chan struct{})}
	if set != nil {
		set(r)
	}
	c.locked(func() { c.begin(r, params) })
	return r
}

// begin writes a request, with the mutex held. A daemon that hangs takes no more than the socket has room for.
func (c *connection) begin(r *request, params map[string]any) {
	c.last++
	r.id, r.sent = c.last, now()
	if c.hasEnded {
		c.settle(r, nil, c.end())
		return
	}
	if !isText(params) {
		c.settle(r, nil, failure("invalid_params", "text for the daemon is UTF-8"))
		return
	}
	line, err := json.Marshal(map[string]any{"id": r.id, "method": r.method, "params": params})
	if err != nil || len(line) > lineBytesMax {
		c.settle(r, nil, failure("limit", "the request is longer than a line of the daemon"))
		return
	}
	c.requests[r.id] = r
	r.isUnsent = !c.write(line)
}

// isText tells whether all strings are UTF-8. json.Marshal would make one text of all that are not, and so one lock.
func isText(params map[string]any) bool {
	for _, value := range params {
		switch value := value.(type) {
		case string:
			if !utf8.ValidString(value) {
				return false
			}
		case []string:
			for _, one := range value {
				if !utf8.ValidString(one) {
					return false
				}
			}
		}
	}
	return true
}

func (c *connection) write(line []byte) bool {
	_ = c.socket.SetWriteDeadline(time.Now().Add(c.patience))
	n, err := c.socket.Write(append(line, '\n'))
	if err != nil {
		c.isBroken = true
		if n > 0 {
			_ = c.socket.Close() // Half a line cannot be taken back.
		}
	}
	return err == nil || n > 0
}

// finish waits for an answer that may take `wait`, below 0 without limit, and what the daemon needs to answer; or until
// `cancelled`.
func (c *connection) finish(r *request, wait time.Duration, cancelled <-chan struct{}) (json.RawMessage, error) {
	var late <-chan time.Time
	if wait >= 0 {
		// Stopped: it would be kept until it fires, and there may be many in that time.
		timer := time.NewTimer(wait + c.patience)
		defer timer.Stop()
		late = timer.C
	}
	for {
		select {
		case <-r.done:
			if r.err != nil {
				return nil, r.err
			}
			return r.result, nil
		case <-cancelled:
			c.locked(func() { c.abandon(r) })
			return nil, failure("cancelled", "the wait was withdrawn")
		case <-late:
			// wait_ms has long passed; a daemon that waits for Redis is waited for, one that hangs is not.
			if !c.isAlive(r) {
				c.locked(func() { c.abandon(r) })
				return nil, failure("no_answer", "the daemon does not answer; it may hang")
			}
			late = time.After(c.patience)
		}
	}
}

func (c *connection) isAlive(r *request) bool {
	ping := c.start("ping", map[string]any{}, nil)
	select {
	case <-ping.done:
		return true
	case <-r.done:
		return true
	case <-time.After(c.patience):
		return false
	}
}

func (c *connection) call(method string, params map[string]any) (json.RawMessage, error) {
	return c.finish(c.start(method, params, nil), 0, nil)
}

// abandon says that nobody waits for the answer any more: a wait is withdrawn, and what is granted all the same given back.
func (c *connection) abandon(r *request) {
	if r.isAnswered {
		if r.method == "acquire" && r.err == nil {
			c.giveBack(r.lock)
		}
		return
	}
	r.isAbandoned = true
	if r.method == "acquire" && !c.isBroken {
		line, _ := json.Marshal(map[string]any{"method": "cancel", "params": map[string]any{"id": r.id}})
		c.write(line)
	}
}

func (c *connection) giveBack(l *Lock) {
	for name, token := range l.has {
		c.forget(l, pair{name, token})
		c.begin(&request{method: "release", done: make(chan struct{})}, map[string]any{"name": name, "token": token})
	}
	if l.state == held {
		l.state = released
	}
}

func (c *connection) forget(l *Lock, p pair) {
	var rest []*Lock
	for _, other := range c.holdings[p] {
		if other != l {
			rest = append(rest, other)
		}
	}
	if len(rest) > 0 {
		c.holdings[p] = rest
	} else {
		delete(c.holdings, p)
	}
}

func (c *connection) read() {
	lines := bufio.NewReaderSize(c.socket, 65536)
	for {
		line, err := readLine(lines)
		if err != nil {
			break
		}
		c.locked(func() {
			c.heard(line)
			c.tick()
		})
	}
	_ = c.socket.Close()
	c.locked(c.endAll)
	close(c.ended)
}

// readLine reads a line. What has no line end is none.
func readLine(from *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		piece, err := from.ReadSlice('\n')
		line = append(line, piece...)
		if err != bufio.ErrBufferFull || len(line) > unendedBytesMax {
			return line, err
		}
	}
}

type message struct {
	ID     json.RawMessage `json:"id"`
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
	Result json.RawMessage `json:"result"`
	Error  json.RawMessage `json:"error"`
}

type transferred struct {
	Name  string `json:"name"`
	Token int64  `json:"token"`
	Mode  string `json:"mode"`
}

func (c *connection) heard(line []byte) {
	var m message
	if json.Unmarshal(line, &m) != nil {
		return
	}
	if m.Method != "" && m.ID == nil {
		c.told(m)
		return
	}
	// Without an id it is about the connection, or about a line that the daemon could not read.
	if (m.ID == nil || string(m.ID) == "null") && m.Error != nil {
		c.fault = refusal(m.Error)
		return
	}
	var id int64
	if json.Unmarshal(m.ID, &id) != nil {
		return
	}
	if r, there := c.requests[id]; there {
		delete(c.requests, id)
		var err *Error
		if m.Error != nil {
			err = refusal(m.Error)
		}
		c.settle(r, m.Result, err)
	}
}

func (c *connection) settle(r *request, result json.RawMessage, err *Error) {
	if err == nil {
		switch {
		case r.method == "acquire":
			err = c.granted(r, result)
		case r.method == "release" && r.lock != nil:
			c.forget(r.lock, r.released)
		case r.method == "initialize":
			var hello struct {
				Session string `json:"session"`
				LeaseMS *int64 `json:"lease_ms"`
			}
			if json.Unmarshal(result, &hello) == nil {
				c.session, c.leaseMS = hello.Session, hello.LeaseMS
			}
		case r.method == "watch":
			var made struct {
				Watch int64 `json:"watch"`
			}
			if json.Unmarshal(result, &made) == nil {
				c.watches[made.Watch] = r.events
			}
		}
	}
	if r.isAnswered {
		return
	}
	r.result, r.err, r.isAnswered = result, err, true
	if r == c.ping {
		c.ping = nil
	}
	if r.method == "ping" && err == nil {
		c.pingAnswered(r)
	}
	close(r.done)
}

func (c *connection) granted(r *request, result json.RawMessage) *Error {
	var grant struct {
		Token    int64         `json:"token"`
		Locks    []transferred `json:"locks"`
		Mode     string        `json:"mode"`
		WaitedMS int64         `json:"waited_ms"`
		ValidMS  *int64        `json:"valid_ms"`
	}
	none := failure("protocol_violation", "the daemon gave an answer that is none")
	if json.Unmarshal(result, &grant) != nil {
		return none
	}
	l := r.lock
	if grant.Locks == nil {
		grant.Locks = []transferred{{Name: l.Names[0], Token: grant.Token}}
	}
	tokens := map[string]int64{}
	for _, one := range grant.Locks {
		tokens[one.Name] = one.Token
	}
	for _, name := range l.Names {
		if tokens[name] == 0 {
			return none
		}
	}
	for _, name := range l.Names {
		l.tokens[name], l.has[name] = tokens[name], tokens[name]
	}
	l.mode, l.state = grant.Mode, held
	if grant.ValidMS != nil {
		// From the grant on, however late this is read: the wait began at the daemon after the sending.
		l.isTimed, l.span = true, span(*grant.ValidMS)
		l.deadline = r.sent + span(grant.WaitedMS) + l.span
	}
	c.register(l)
	if r.isAbandoned {
		c.giveBack(l)
	}
	return nil
}

func (c *connection) register(l *Lock) {
	for name, token := range l.has {
		c.holdings[pair{name, token}] = append(c.holdings[pair{name, token}], l)
	}
}

func (c *connection) told(m message) {
	switch m.Method {
	case "lost":
		var loss Loss
		if json.Unmarshal(m.Params, &loss) != nil {
			return
		}
		p := pair{loss.Name, loss.Token}
		sharing := c.holdings[p]
		delete(c.holdings, p)
		for _, l := range sharing {
			c.lose(l, loss)
		}
	case "waiting":
		var told Waiting
		if json.Unmarshal(m.Params, &told) != nil {
			return
		}
		if r, there := c.requests[told.ID]; there && r.lock != nil && r.lock.options.OnWaiting != nil {
			c.calls = append(c.calls, func() { r.lock.options.OnWaiting(told) })
		}
	case "contended":
		var told struct {
			transferred
			Waiters int `json:"waiters"`
		}
		if json.Unmarshal(m.Params, &told) != nil {
			return
		}
		for _, l := range c.holdings[pair{told.Name, told.Token}] {
			if call := l.options.OnContended; call != nil {
				c.calls = append(c.calls, func() { call(told.Waiters) })
			}
		}
	case "transferred":
		var told transferred
		if json.Unmarshal(m.Params, &told) == nil && c.onTransferred != nil {
			c.onTransferred(told)
		}
	case "event":
		var event Event
		if json.Unmarshal(m.Params, &event) != nil {
			return
		}
		if call := c.watches[event.Watch]; call != nil {
			call(event)
		}
	case "backend", "missed":
		var event Event
		if json.Unmarshal(m.Params, &event) == nil {
			event.Kind = m.Method
			c.tellWatches(event)
		}
	}
}

func (c *connection) tellWatches(event Event) {
	for _, call := range c.watches {
		call(event)
	}
}

func (c *connection) lose(l *Lock, loss Loss) {
	delete(l.has, loss.Name)
	if l.state != held {
		return
	}
	l.state, l.loss = lost, &loss
	l.cancel()
	c.calls = append(c.calls, func() {
		c.mutex.Lock()
		call := l.options.OnLost
		c.mutex.Unlock()
		if call != nil {
			call(loss)
		}
	})
}

func (c *connection) end() *Error {
	if c.fault != nil {
		return c.fault
	}
	return failure("connection_lost", "the connection to the daemon has ended")
}

// endAll: the connection has ended; whoever waits is told, and what was held is lost.
func (c *connection) endAll() {
	c.hasEnded, c.isBroken = true, true
	if c.timer != nil {
		c.timer.Stop()
	}
	for p, sharing := range c.holdings {
		for _, l := range sharing {
			c.lose(l, Loss{Name: p.name, Token: p.token, Reason: "connection_ended"})
		}
	}
	c.holdings = map[pair][]*Lock{}
	c.tellWatches(Event{Kind: "ended"})
	c.watches = map[int64]func(Event){}
	for _, r := range c.requests {
		c.settle(r, nil, c.end())
	}
	c.requests = map[int64]*request{}
}

func (c *connection) timed() []*Lock {
	var found []*Lock
	for _, sharing := range c.holdings {
		for _, l := range sharing {
			if l.isTimed && l.state == held {
				found = append(found, l)
			}
		}
	}
	return found
}

func (c *connection) pingAnswered(ping *request) {
	var told struct {
		ValidMS *int64 `json:"valid_ms"`
	}
	_ = json.Unmarshal(ping.result, &told)
	c.noPingBefore = now() + 100*time.Millisecond
	for _, l := range c.timed() {
		if told.ValidMS != nil {
			// This counts for all that was held when it was answered, from when it was asked.
			l.span = span(*told.ValidMS)
			l.deadline = max(l.deadline, ping.sent+l.span)
		} else if len(c.holdings) > holdsToldMax {
			l.isTimed = false
		}
	}
}

// span is a time that the daemon told. It is used in sums: nothing of it is longer than a century.
func span(ms int64) time.Duration {
	const century = 100 * 366 * 24 * time.Hour
	if ms > int64(century/time.Millisecond) {
		return century
	}
	return max(time.Duration(ms)*time.Millisecond, 0)
}

// answerTime is for how long the daemon may leave unanswered how long a hold is good.
func answerTime(span time.Duration) time.Duration { return min(time.Second, span/4) }

func max(a, b time.Duration) time.Duration {
	if a > b {
		return a
	}
	return b
}

func min(a, b time.Duration) time.Duration {
	if a < b {
		return a
	}
	return b
}

// tick asks how long holds are good before that time is over, and finds those whose time is. With the mutex held.
func (c *connection) tick() {
	if c.timer != nil {
		c.timer.Stop()
	}
	timed := c.timed()
	if len(timed) == 0 || c.hasEnded {
		return
	}
	const forever = time.Duration(1<<63 - 1)
	askAt := forever
	for _, l := range timed {
		askAt = min(askAt, l.deadline-l.span/2)
	}
	askAt = max(askAt, c.noPingBefore)
	if c.ping == nil && now() >= askAt {
		c.ping = &request{method: "ping", done: make(chan struct{})}
		c.begin(c.ping, map[string]any{})
	}
	next := askAt
	if c.ping != nil {
		next = forever
		for _, l := range timed {
			// A process that was stopped itself asks before it judges.
			judgeAt := max(l.deadline, c.ping.sent+answerTime(l.span))
			if now() < judgeAt {
				next = min(next, judgeAt)
				continue
			}
			for name, token := range l.has {
				c.lose(l, Loss{Name: name, Token: token, Reason: "lease_expired"})
				l.has[name] = token
				break
			}
			c.giveBack(l)
		}
	}
	if next < forever {
		c.timer = time.AfterFunc(max(next-now(), time.Millisecond), func() { c.locked(c.tick) })
	}
}
