// The conformance suite's driver. See protocol/conformance/README.md.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"sidelock"
)

type args struct {
	tag, verb string
	names     []string
	values    map[string]string
}

func (a args) has(key string) bool { _, there := a.values[key]; return there }

func (a args) number(key string) int {
	number, _ := strconv.Atoi(a.values[key])
	return number
}

func (a args) duration(key string) time.Duration {
	return time.Duration(a.number(key)) * time.Millisecond
}

type leave struct {
	once sync.Once
	done chan struct{}
	fail bool
}

type driver struct {
	mutex   sync.Mutex
	client  *sidelock.Client
	locks   map[string]*sidelock.Lock
	cancels map[string]context.CancelFunc
	leaves  map[string]*leave
	watches map[string]*sidelock.Watch
	workers map[string]chan args
}

var errBody = errors.New("the body failed")

var output sync.Mutex

func say(head string, fields ...any) {
	text := head
	for i := 0; i < len(fields); i += 2 {
		text += fmt.Sprintf(" %s=%s", fields[i], url.PathEscape(fmt.Sprint(fields[i+1])))
	}
	output.Lock()
	defer output.Unlock()
	fmt.Println(text)
}

func parse(line string) args {
	words := strings.Split(line, " ")
	a := args{tag: words[0], verb: words[1], values: map[string]string{}}
	for _, word := range words[2:] {
		key, value, _ := strings.Cut(word, "=")
		value, _ = url.PathUnescape(value)
		if key == "name" {
			a.names = append(a.names, value)
		}
		a.values[key] = value
	}
	return a
}

func (d *driver) options(a args) sidelock.Options {
	label := a.values["lock"]
	worker := a.values["worker"]
	if worker == "" {
		worker = "0"
	}
	o := sidelock.Options{
		Wait: a.duration("wait"), Try: a.has("wait") && a.number("wait") == 0, Shared: a.values["mode"] == "shared",
		Permits: a.number("permits"), MaxHold: a.duration("max_hold"), Owner: "worker-" + worker,
		Meta:     a.values["meta"] + strings.Repeat("x", a.number("meta_bytes")),
		Replicas: a.number("replicas"), Durability: a.values["durability"],
		OnLost: func(loss sidelock.Loss) {
			say("event lost", "lock", label, "name", loss.Name, "token", loss.Token, "reason", loss.Reason, "grace_ms", loss.GraceMS)
		},
	}
	if a.has("progress") {
		o.OnWaiting = func(told sidelock.Waiting) { say("event waiting", "lock", label, "position", told.Position) }
		o.OnContended = func(waiters int) { say("event contended", "lock", label, "waiters", waiters) }
	}
	return o
}

func (d *driver) lock(label string) *sidelock.Lock {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	return d.locks[label]
}

func (d *driver) leave(label string) *leave {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	if d.leaves[label] == nil {
		d.leaves[label] = &leave{done: make(chan struct{})}
	}
	return d.leaves[label]
}

func valid(l *sidelock.Lock) string {
	left, isTimed := l.Valid()
	if !isTimed {
		return "none"
	}
	return fmt.Sprint(left.Milliseconds())
}

func (d *driver) acquire(a args) ([]any, error) {
	ctx, cancel := context.WithCancel(context.Background())
	d.mutex.Lock()
	d.cancels[a.tag] = cancel
	d.mutex.Unlock()
	l, err := d.client.Acquire(ctx, d.options(a), a.names...)
	if err != nil {
		return nil, err
	}
	d.mutex.Lock()
	d.locks[a.values["lock"]] = l
	d.mutex.Unlock()
	var tokens []string
	for _, name := range a.names {
		tokens = append(tokens, fmt.Sprint(l.TokenOf(name)))
	}
	return []any{"token", strings.Join(tokens, ","), "mode", l.Mode(), "valid_ms", valid(l)}, nil
}

func (d *driver) scope(a args) error {
	label := a.values["lock"]
	return d.client.Do(context.Background(), d.options(a), func(ctx context.Context, l *sidelock.Lock) error {
		if l.Held() {
			say("event entered", "lock", label, "token", l.Token())
		}
		done := ctx.Done()
		if a.has("shield") {
			done = nil
		}
		leave := d.leave(label)
		select {
		case <-leave.done:
		case <-done:
			say("event cancelled", "lock", label)
			return ctx.Err()
		}
		if leave.fail {
			return errBody
		}
		return nil
	}, a.names...)
}

func (d *driver) cycles(a args) ([]any, error) {
	file := a.values["file"]
	if err := os.WriteFile(file, []byte("0"), 0o600); err != nil {
		return nil, err
	}
	rising, last := 1, int64(0)
	var group sync.WaitGroup
	for worker := 0; worker < a.number("workers"); worker++ {
		group.Add(1)
		go func() {
			defer group.Done()
			for cycle := 0; cycle < a.number("cycles"); cycle++ {
				l, err := d.client.Acquire(context.Background(), sidelock.Options{}, a.names...)
				if err != nil {
					panic(err)
				}
				text, _ := os.ReadFile(file)
				count, _ := strconv.Atoi(string(text))
				_ = os.WriteFile(file, []byte(strconv.Itoa(count+1)), 0o600)
				if l.Token() <= last {
					rising = 0
				}
				last = l.Token()
				if err := l.Release(); err != nil {
					panic(err)
				}
			}
		}()
	}
	group.Wait()
	return []any{"rising", rising}, nil
}

func (d *driver) watch(a args) error {
	var w *sidelock.Watch
	var err error
	if len(a.names) > 0 {
		w, err = d.client.Watch(a.names[0])
	} else {
		w, err = d.client.WatchPrefix(a.values["prefix"])
	}
	if err != nil {
		return err
	}
	d.mutex.Lock()
	d.watches[a.values["watch"]] = w
	d.mutex.Unlock()
	go func() {
		for event, more := w.Next(); more; event, more = w.Next() {
			say("event watch", "watch", a.values["watch"], "kind", event.Kind, "name", event.Name, "token", event.Token)
		}
	}()
	return nil
}

func (d *driver) run(a args) ([]any, error) {
	label := a.values["lock"]
	switch a.verb {
	case "noop":
		return nil, nil
	case "open":
		d.client = &sidelock.Client{Path: a.values["path"], Patience: a.duration("answer_ms")}
		return nil, nil
	case "path":
		return []any{"path", sidelock.SocketPath(d.client.Path)}, nil
	case "session":
		session, err := d.client.Session()
		return []any{"session", session}, err
	case "close":
		return nil, d.client.Close()
	case "acquire":
		return d.acquire(a)
	case "scope":
		return nil, d.scope(a)
	case "leave":
		leave := d.leave(label)
		leave.fail = a.has("fail")
		leave.once.Do(func() { close(leave.done) })
		return nil, nil
	case "release":
		return nil, d.lock(label).Release()
	case "held":
		l := d.lock(label)
		if l == nil {
			return []any{"held", 0}, nil
		}
		fields := []any{"held", 0, "valid_ms", valid(l)}
		if l.Held() {
			fields[1] = 1
		}
		if loss := l.Loss(); loss != nil {
			fields = append(fields, "lost", loss.Reason)
		}
		return fields, nil
	case "cancel":
		d.mutex.Lock()
		defer d.mutex.Unlock()
		d.cancels[a.values["target"]]()
		return nil, nil
	case "downgrade":
		return nil, d.lock(label).Downgrade()
	case "extend":
		return nil, d.lock(label).Extend(a.duration("max_hold"))
	case "transfer":
		return nil, d.lock(label).Transfer(a.values["session"])
	case "accept":
		return nil, d.client.AcceptTransfers(func(l *sidelock.Lock) {
			d.mutex.Lock()
			d.locks[label] = l
			d.mutex.Unlock()
			l.OnLost(d.options(a).OnLost)
			say("event transferred", "lock", label, "name", l.Names[0], "token", l.Token())
		})
	case "watch":
		return nil, d.watch(a)
	case "unwatch":
		d.mutex.Lock()
		w := d.watches[a.values["watch"]]
		d.mutex.Unlock()
		return nil, w.Close()
	case "cycles":
		return d.cycles(a)
	case "spawn":
		command := exec.Command("sleep", "60")
		err := command.Start()
		return []any{"pid", command.Process.Pid}, err
	}
	return nil, errors.New("no such verb")
}

func (d *driver) answer(a args) {
	fields, err := d.run(a)
	var refused *sidelock.Error
	switch {
	case err == nil:
		say(a.tag+" ok", fields...)
	case errors.Is(err, errBody):
		say(a.tag + " error body")
	case errors.As(err, &refused):
		kind := "error"
		for name, target := range map[string]error{
			"busy": sidelock.ErrBusy, "timeout": sidelock.ErrTimeout, "cancelled": sidelock.ErrCancelled, "lost": sidelock.ErrLost,
			"denied": sidelock.ErrDenied, "unavailable": sidelock.ErrUnavailable, "deadlock": sidelock.ErrDeadlock,
			"under_replicated": sidelock.ErrUnderReplicated,
		} {
			if errors.Is(err, target) {
				kind = name
			}
		}
		told := []any{"type", kind, "message", refused.Message}
		if kind == "busy" || kind == "timeout" {
			told = append(told, "holders", len(refused.Holders))
		}
		if kind == "under_replicated" {
			told = append(told, "acknowledged", refused.Acknowledged)
		}
		if kind == "lost" {
			told = append(told, "lost", refused.Loss.Reason)
		}
		reason := refused.Reason
		if reason == "" {
			reason = "unknown"
		}
		say(a.tag+" error "+url.PathEscape(reason), told...)
	default:
		panic(err)
	}
}

func main() {
	signal.Notify(make(chan os.Signal, 16), syscall.SIGUSR1)
	d := &driver{client: &sidelock.Client{}, locks: map[string]*sidelock.Lock{}, cancels: map[string]context.CancelFunc{},
		leaves: map[string]*leave{}, watches: map[string]*sidelock.Watch{}, workers: map[string]chan args{}}
	say("driver 1", "language", "go", "features", "cancels")
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		a := parse(lines.Text())
		worker := a.values["worker"]
		switch a.verb {
		case "noop", "held", "cancel", "leave", "path":
			d.answer(a)
			continue
		case "session", "watch", "unwatch", "open", "close":
			worker = "control"
		}
		if worker == "" {
			worker = "0"
		}
		if d.workers[worker] == nil {
			jobs := make(chan args, 1000)
			d.workers[worker] = jobs
			go func() {
				for job := range jobs {
					d.answer(job)
				}
			}()
		}
		d.workers[worker] <- a
	}
	_ = d.client.Close()
}
