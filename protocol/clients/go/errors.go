package sidelock

import (
	"encoding/json"
	"errors"
	"fmt"
)

// Holder is who has a lock, as far as the daemon tells.
type Holder struct {
	Host    string `json:"host"`
	Session string `json:"session"`
	PID     int    `json:"pid"`
	UID     int    `json:"uid"`
	Command string `json:"command"`
	Unit    string `json:"unit"`
	Owner   string `json:"owner"`
	Meta    string `json:"meta"`
	Mode    string `json:"mode"`
	Token   int64  `json:"token"`
	HeldMS  int64  `json:"held_ms"`
	Foreign bool   `json:"foreign"`
}

// Loss is how a hold ended without a release. Reason is connection_ended when the daemon has gone.
type Loss struct {
	Name    string `json:"name"`
	Token   int64  `json:"token"`
	Reason  string `json:"reason"`
	GraceMS int64  `json:"grace_ms"`
	Detail  string `json:"detail"`
}

// Error is whatever goes wrong with a lock. Compare it with errors.Is and the kinds below; Reason is the stable name of
// errors.json, or one that this client found.
type Error struct {
	Reason  string
	Message string
	// Holders is who has the lock, with ErrBusy and ErrTimeout.
	Holders []Holder
	// Acknowledged is how many replicas of Redis had the lease in time, with ErrUnderReplicated.
	Acknowledged int
	// Loss is there with ErrLost.
	Loss *Loss
	// Data is what the daemon said beside it.
	Data json.RawMessage
	kind error
	lost string
}

// The kinds of errors, for errors.Is.
var (
	ErrBusy            = errors.New("busy")
	ErrTimeout         = errors.New("timeout")
	ErrCancelled       = errors.New("cancelled")
	ErrNotHeld         = errors.New("not held")
	ErrLost            = errors.New("lost")
	ErrDenied          = errors.New("denied")
	ErrUnavailable     = errors.New("unavailable")
	ErrDeadlock        = errors.New("deadlock")
	ErrUnderReplicated = errors.New("under-replicated")
)

var kinds = map[string]error{
	"busy": ErrBusy, "timeout": ErrTimeout, "cancelled": ErrCancelled, "not_held": ErrNotHeld, "lost": ErrLost,
	"denied": ErrDenied, "permission": ErrDenied, "deadlock": ErrDeadlock, "unavailable": ErrUnavailable,
	"shutting_down": ErrUnavailable, "no_daemon": ErrUnavailable, "no_answer": ErrUnavailable,
	"connection_lost": ErrUnavailable, "under_replicated": ErrUnderReplicated,
}

// Error is the prose.
func (e *Error) Error() string { return "sidelock: " + e.Message }

// Is tells whether the error is of a kind.
func (e *Error) Is(target error) bool { return e.kind != nil && e.kind == target }

func failure(reason, format string, values ...any) *Error {
	return &Error{Reason: reason, Message: fmt.Sprintf(format, values...), kind: kinds[reason]}
}

func lossError(loss Loss) *Error {
	what := loss.Reason
	if loss.Detail != "" {
		what = loss.Detail
	}
	err := failure("lost", "lock %s is lost: %s", loss.Name, what)
	err.Loss = &loss
	return err
}

// refusal is the error that the error member of a reply describes.
func refusal(raw json.RawMessage) *Error {
	var reply struct {
		Message string          `json:"message"`
		Data    json.RawMessage `json:"data"`
	}
	_ = json.Unmarshal(raw, &reply)
	var data struct {
		Reason       string   `json:"reason"`
		Detail       string   `json:"detail"`
		Lost         string   `json:"lost"`
		Holders      []Holder `json:"holders"`
		Acknowledged int      `json:"acknowledged"`
	}
	_ = json.Unmarshal(reply.Data, &data)
	if data.Detail != "" {
		reply.Message += ": " + data.Detail
	}
	err := failure(data.Reason, "%s", reply.Message)
	err.Holders, err.Acknowledged, err.Data, err.lost = data.Holders, data.Acknowledged, reply.Data, data.Lost
	return err
}
