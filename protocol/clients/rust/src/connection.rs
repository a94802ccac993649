//! A socket, the thread that reads it, and what waits for answers, holds and watches on it.

use crate::json::{object, text, Value};
use crate::{Call, Error, Lock, Loss, Shared, State};
use std::collections::{BTreeMap, HashMap};
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

const LINE_BYTES_MAX: usize = 65536;
/// Of a line that has not ended; what is longer comes from no daemon.
const UNENDED_BYTES_MAX: usize = 1 << 20;
/// Of more holds than these a ping does not say how long they are valid.
const HOLDS_TOLD_MAX: usize = 64;

/// A request that is not answered yet.
pub(crate) struct Request {
    id: i64,
    method: &'static str,
    params: Value,
    lock: Option<Arc<Shared>>,
    told: Option<Call<Value>>,
    sent: Instant,
    is_abandoned: AtomicBool,
    is_unsent: AtomicBool,
    answer: Mutex<Option<Result<Value, Error>>>,
    done: Condvar,
}

impl Request {
    pub(crate) fn is_unsent(&self) -> bool {
        self.is_unsent.load(Ordering::SeqCst)
    }

    fn is_answered(&self) -> bool {
        self.answer.lock().unwrap().is_some()
    }

    fn settle(&self, answer: Result<Value, Error>) {
        self.answer.lock().unwrap().get_or_insert(answer);
        self.done.notify_all();
    }

    /// Whether it is answered within the time; None: without limit.
    fn wait(&self, limit: Option<Duration>) -> bool {
        let answer = self.answer.lock().unwrap();
        match limit {
            None => self.done.wait_while(answer, |answer| answer.is_none()).unwrap().is_some(),
            Some(limit) => self.done.wait_timeout_while(answer, limit, |answer| answer.is_none()).unwrap().0.is_some(),
        }
    }
}

#[derive(Default)]
struct Inner {
    requests: BTreeMap<i64, Arc<Request>>,
    holdings: HashMap<(String, i64), Vec<Arc<Shared>>>,
    watches: HashMap<i64, Call<Value>>,
    accept: Option<Call<Lock>>,
    calls: Vec<Box<dyn FnOnce() + Send>>,
    session: String,
    lease: Option<Duration>,
    last: i64,
    fault: Option<Error>,
    ping: Option<Arc<Request>>,
    no_ping_before: Option<Instant>,
    is_broken: bool,
    has_ended: bool,
    reader: Option<ThreadId>,
}

pub(crate) struct Connection {
    stream: UnixStream,
    patience: Duration,
    inner: Mutex<Inner>,
    ended: Condvar,
}

impl Connection {
    pub(crate) fn open(path: &str, patience: Duration) -> Result<Arc<Connection>, Error> {
        // The standard library opens it with close-on-exec.
        let stream = UnixStream::connect(path).map_err(|error| match error.kind() {
            ErrorKind::PermissionDenied => Error::new("permission", format!("the permissions of {path} keep this user out")),
            _ => Error::new("no_daemon", format!("no daemon at {path}: {error}")),
        })?;
        let fault = |error: std::io::Error| Error::new("no_daemon", error.to_string());
        // A daemon that hangs takes no more than the socket has room for.
        stream.set_write_timeout(Some(patience.max(Duration::from_millis(1)))).map_err(fault)?;
        let reading = stream.try_clone().map_err(fault)?;
        let connection = Arc::new(Connection { stream, patience, inner: Mutex::default(), ended: Condvar::new() });
        let reader = connection.clone();
        std::thread::Builder::new().name("sidelock".into()).spawn(move || reader.run(reading)).map_err(fault)?;
        Ok(connection)
    }

    pub(crate) fn initialize(self: &Arc<Self>, accept: Option<Call<Lock>>) -> Result<(), Error> {
        let name = std::env::args().next().unwrap_or_default();
        let name: String = name.rsplit('/').next().unwrap_or("").chars().take(30).collect();
        let name = if name.is_empty() { "rust" } else { &name };
        let mut params = vec![("client", object(vec![("name", text(name))])), ("protocol", Value::Number(1))];
        if let Some(accept) = accept {
            self.accepts(accept);
            params.push(("accept_transfers", Value::Bool(true)));
        }
        let mut ours = params.clone();
        ours.push(("lifetime", text("process")));
        match self.call("initialize", object(ours)) {
            // The daemon cannot see this process, as from a container.
            Err(error) if error.data.text("field") == Some("lifetime") => self.call("initialize", object(params)).map(|_| ()),
            other => other.map(|_| ()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    pub(crate) fn accepts(&self, accept: Call<Lock>) {
        self.lock().accept = Some(accept);
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.lock().is_broken
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.lock().has_ended
    }

    pub(crate) fn session(&self) -> String {
        self.lock().session.clone()
    }

    pub(crate) fn unwatch(&self, number: i64) -> bool {
        self.lock().watches.remove(&number).is_some()
    }

    pub(crate) fn wait_ended(&self) {
        let inner = self.lock();
        let _ = self.ended.wait_timeout_while(inner, self.patience, |inner| !inner.has_ended);
    }

    /// Does something with the mutex held, and then tells the user.
    fn locked<T>(self: &Arc<Self>, action: impl FnOnce(&mut Inner) -> T) -> T {
        let (result, calls) = {
            let mut inner = self.lock();
            let result = action(&mut inner);
            (result, std::mem::take(&mut inner.calls))
        };
        for call in calls {
            call();
        }
        result
    }

    pub(crate) fn start(self: &Arc<Self>, method: &'static str, params: Value, lock: Option<Arc<Shared>>, told: Option<Call<Value>>)
        -> Arc<Request> {
        self.locked(|inner| self.begin(inner, method, params, lock, told))
    }

    fn begin(&self, inner: &mut Inner, method: &'static str, params: Value, lock: Option<Arc<Shared>>, told: Option<Call<Value>>)
        -> Arc<Request> {
        inner.last += 1;
        let request = Arc::new(Request {
            id: inner.last,
            method,
            params: params.clone(),
            lock,
            told,
            sent: Instant::now(),
            is_abandoned: AtomicBool::new(false),
            is_unsent: AtomicBool::new(false),
            answer: Mutex::new(None),
            done: Condvar::new(),
        });
        if inner.has_ended {
            request.settle(Err(end(inner)));
            return request;
        }
        let mut line = String::new();
        object(vec![("id", Value::Number(request.id)), ("method", text(method)), ("params", params)]).write(&mut line);
        if line.len() > LINE_BYTES_MAX {
            request.settle(Err(Error::new("limit", "the request is longer than a line of the daemon")));
            return request;
        }
        inner.requests.insert(request.id, request.clone());
        request.is_unsent.store(!self.write(inner, line), Ordering::SeqCst);
        request
    }

    /// Whether something of the line was written.
    fn write(&self, inner: &mut Inner, mut line: String) -> bool {
        line.push('\n');
        let (mut bytes, mut stream) = (line.as_bytes(), &self.stream);
        while !bytes.is_empty() && !inner.is_broken {
            match stream.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    // What the daemon said before it closed the connection can still be read; half a line cannot be taken back.
                    inner.is_broken = true;
                    if bytes.len() < line.len() {
                        let _ = self.stream.shutdown(Shutdown::Both);
                    }
                }
            }
        }
        bytes.len() < line.len()
    }

    /// The result of a request that may take `wait` (None: without limit) and what the daemon needs to answer.
    pub(crate) fn finish(self: &Arc<Self>, request: &Arc<Request>, wait: Option<Duration>) -> Result<Value, Error> {
        let mut limit = wait.map(|wait| wait.saturating_add(self.patience));
        while !request.wait(limit) {
            // wait_ms has long passed; a daemon that waits for Redis is waited for, one that hangs is not.
            let ping = self.start("ping", object(vec![]), None, None);
            if !ping.wait(Some(self.patience)) && !request.is_answered() {
                self.locked(|inner| self.abandon(inner, request));
                return Err(Error::new("no_answer", "the daemon does not answer; it may hang"));
            }
            limit = Some(self.patience);
        }
        request.answer.lock().unwrap().clone().expect("it was waited for")
    }

    pub(crate) fn call(self: &Arc<Self>, method: &'static str, params: Value) -> Result<Value, Error> {
        let request = self.start(method, params, None, None);
        self.finish(&request, Some(Duration::ZERO))
    }

    /// Of a hold whose time is over: waits until the daemon has said how long it is good, or it is lost. Not in a callback, for which
    /// nothing is read.
    pub(crate) fn confirm(self: &Arc<Self>, span: Duration) {
        if self.lock().reader == Some(std::thread::current().id()) {
            return;
        }
        self.locked(|inner| self.tick(inner));
        self.start("ping", object(vec![]), None, None).wait(Some(answer_time(span)));
        self.locked(|inner| self.tick(inner));
    }

    /// Nobody waits for the answer any more: a wait is withdrawn, and a lock that is granted all the same given back.
    fn abandon(&self, inner: &mut Inner, request: &Arc<Request>) {
        if request.is_answered() {
            let is_granted = matches!(&*request.answer.lock().unwrap(), Some(Ok(_)));
            if let (true, "acquire", Some(lock)) = (is_granted, request.method, &request.lock) {
                self.give_back(inner, lock);
            }
        } else if !request.is_abandoned.swap(true, Ordering::SeqCst) && request.method == "acquire" {
            let mut line = String::new();
            let id = object(vec![("id", Value::Number(request.id))]);
            object(vec![("method", text("cancel")), ("params", id)]).write(&mut line);
            self.write(inner, line);
        }
    }

    pub(crate) fn withdraw(self: &Arc<Self>, request: &Arc<Request>) {
        self.locked(|inner| {
            if !request.is_answered() {
                self.abandon(inner, request);
                request.settle(Err(Error::new("cancelled", "the wait was withdrawn")));
            }
        });
    }

    fn give_back(&self, inner: &mut Inner, lock: &Arc<Shared>) {
        let has = lock.hold.lock().unwrap().has.clone();
        for (name, token) in has {
            forget(inner, lock, &name, token);
            self.begin(inner, "release", object(vec![("name", text(&name)), ("token", Value::Number(token))]), None, None);
        }
        let mut hold = lock.hold.lock().unwrap();
        if hold.state == State::Held {
            hold.state = State::Released;
        }
    }

    pub(crate) fn forget_all(&self, lock: &Arc<Shared>, has: &BTreeMap<String, i64>) {
        let mut inner = self.lock();
        for (name, token) in has {
            forget(&mut inner, lock, name, *token);
        }
    }

    fn run(self: Arc<Self>, mut stream: UnixStream) {
        self.lock().reader = Some(std::thread::current().id());
        let (mut rest, mut buffer, mut pause) = (Vec::new(), vec![0; 65536], None);
        loop {
            let limit = pause.map(|pause: Duration| pause.max(Duration::from_millis(1)));
            if stream.set_read_timeout(limit).is_err() {
                break;
            }
            match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => rest.extend_from_slice(&buffer[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => break,
            }
            let whole = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            let lines: Vec<u8> = rest.drain(..whole).collect();
            let is_flooded = rest.len() > UNENDED_BYTES_MAX;
            pause = self.locked(|inner| {
                for line in lines.split(|byte| *byte == b'\n') {
                    if let Some(message) = std::str::from_utf8(line).ok().and_then(Value::parse) {
                        self.heard(inner, &message);
                    }
                }
                self.tick(inner)
            });
            if is_flooded {
                break;
            }
        }
        let _ = self.stream.shutdown(Shutdown::Both);
        self.locked(|inner| {
            inner.has_ended = true;
            inner.is_broken = true;
            for ((name, token), sharing) in std::mem::take(&mut inner.holdings) {
                let loss = Loss { name, token, reason: "connection_ended".into(), grace_ms: 0, detail: None };
                sharing.iter().for_each(|lock| lose(inner, lock, &loss));
            }
            tell_watches(inner, &object(vec![("kind", text("ended"))]));
            inner.watches.clear();
            for request in std::mem::take(&mut inner.requests).into_values() {
                request.settle(Err(end(inner)));
            }
            self.ended.notify_all();
        });
    }

    fn heard(self: &Arc<Self>, inner: &mut Inner, message: &Value) {
        let members = match message {
            Value::Object(members) => members,
            _ => return,
        };
        if let (Some(method), false) = (message.text("method"), members.contains_key("id")) {
            if let Some(params) = message.get("params") {
                self.told(inner, method, params);
            }
            return;
        }
        let error = message.get("error").map(Error::refusal);
        if message.get("id").is_none() && error.is_some() {
            // It is about the connection, or about a line that the daemon could not read.
            inner.fault = error;
            return;
        }
        if let Some(request) = message.number("id").and_then(|id| inner.requests.remove(&id)) {
            let result = error.map_or_else(|| Ok(message.get("result").cloned().unwrap_or(Value::Null)), Err);
            self.settle(inner, &request, result);
        }
    }

    fn settle(self: &Arc<Self>, inner: &mut Inner, request: &Arc<Request>, mut answer: Result<Value, Error>) {
        if let Ok(result) = &answer {
            match request.method {
                "acquire" => {
                    if let Err(error) = self.granted(inner, request, result) {
                        answer = Err(error);
                    }
                }
                "release" => {
                    if let (Some(lock), Some(name)) = (&request.lock, request.params.text("name")) {
                        forget(inner, lock, name, request.params.number("token").unwrap_or(0));
                    }
                }
                "initialize" => {
                    inner.session = result.text("session").unwrap_or("").into();
                    inner.lease = result.number("lease_ms").map(span);
                }
                "watch" => {
                    if let (Some(number), Some(told)) = (result.number("watch"), &request.told) {
                        inner.watches.insert(number, told.clone());
                    }
                }
                _ => {}
            }
        }
        if inner.ping.as_ref().map_or(false, |ping| Arc::ptr_eq(ping, request)) {
            inner.ping = None;
        }
        if let ("ping", Ok(result)) = (request.method, &answer) {
            ping_answered(inner, request, result);
        }
        request.settle(answer);
    }

    fn granted(&self, inner: &mut Inner, request: &Arc<Request>, result: &Value) -> Result<(), Error> {
        let lock = match &request.lock {
            Some(lock) => lock,
            None => return Ok(()),
        };
        {
            let mut hold = lock.hold.lock().unwrap();
            if let Some(locks) = result.list("locks") {
                for one in locks {
                    if let (Some(name), Some(token)) = (one.text("name"), one.number("token")) {
                        hold.tokens.insert(name.into(), token);
                    }
                }
            } else if let Some(token) = result.number("token") {
                hold.tokens.insert(lock.names[0].clone(), token);
            }
            if lock.names.iter().any(|name| !hold.tokens.contains_key(name)) {
                return Err(Error::new("protocol_violation", "the daemon gave an answer that is none"));
            }
            hold.has = hold.tokens.clone();
            hold.mode = result.text("mode").unwrap_or("").into();
            hold.state = State::Held;
            if let Some(valid) = result.number("valid_ms") {
                // From the grant on, however late this is read: the wait began at the daemon after the sending.
                hold.span = span(valid);
                hold.deadline = Some(request.sent + span(result.number("waited_ms").unwrap_or(0)) + hold.span);
            }
        }
        register(inner, lock);
        if request.is_abandoned.load(Ordering::SeqCst) {
            self.give_back(inner, lock);
        }
        Ok(())
    }

    fn told(self: &Arc<Self>, inner: &mut Inner, method: &str, params: &Value) {
        let pair = (params.text("name").unwrap_or("").to_string(), params.number("token").unwrap_or(0));
        match method {
            "lost" => {
                let loss = Loss {
                    name: pair.0.clone(),
                    token: pair.1,
                    reason: params.text("reason").unwrap_or("").into(),
                    grace_ms: params.number("grace_ms").unwrap_or(0),
                    detail: params.text("detail").map(String::from),
                };
                for lock in inner.holdings.remove(&pair).unwrap_or_default() {
                    lose(inner, &lock, &loss);
                }
            }
            "waiting" => {
                let request = params.number("id").and_then(|id| inner.requests.get(&id));
                let call = request.and_then(|one| one.lock.as_ref()).and_then(|lock| lock.hold.lock().unwrap().options.on_waiting.clone());
                if let Some(call) = call {
                    let params = params.clone();
                    inner.calls.push(Box::new(move || call(params)));
                }
            }
            "contended" => {
                let waiters = params.number("waiters").unwrap_or(0);
                for lock in inner.holdings.get(&pair).cloned().unwrap_or_default() {
                    if let Some(call) = lock.hold.lock().unwrap().options.on_contended.clone() {
                        inner.calls.push(Box::new(move || call(waiters)));
                    }
                }
            }
            "transferred" => {
                let accept = match inner.accept.clone() {
                    Some(accept) => accept,
                    None => return,
                };
                let shared = Shared::new(vec![pair.0.clone()], crate::Options::new());
                {
                    let mut hold = shared.hold.lock().unwrap();
                    hold.tokens.insert(pair.0, pair.1);
                    hold.has = hold.tokens.clone();
                    hold.mode = params.text("mode").unwrap_or("").into();
                    hold.state = State::Held;
                    if let Some(lease) = inner.lease {
                        // Nothing is known of how long it is good: that is asked at once, and meanwhile it counts for what an answer
                        // may take.
                        hold.span = lease;
                        hold.deadline = Some(Instant::now() + answer_time(lease));
                    }
                }
                register(inner, &shared);
                let connection = self.clone();
                inner.calls.push(Box::new(move || accept(Lock { shared, connection })));
            }
            "event" => {
                if let Some(call) = params.number("watch").and_then(|number| inner.watches.get(&number)).cloned() {
                    let params = params.clone();
                    inner.calls.push(Box::new(move || call(params)));
                }
            }
            "backend" | "missed" => {
                if let Value::Object(members) = params {
                    let mut members = members.clone();
                    members.insert("kind".into(), text(method));
                    tell_watches(inner, &Value::Object(members));
                }
            }
            _ => {}
        }
    }

    pub(crate) fn close(&self) {
        let _ = self.stream.shutdown(Shutdown::Both);
        self.wait_ended();
    }

    /// Asks how long holds are good before that time is over, and finds those whose time is. Gives the time until then.
    fn tick(&self, inner: &mut Inner) -> Option<Duration> {
        let locks = timed(inner);
        let now = Instant::now();
        let ask_at = locks.iter().filter_map(|lock| {
            let hold = lock.hold.lock().unwrap();
            hold.deadline.map(|deadline| deadline.checked_sub(hold.span / 2).unwrap_or(now))
        }).min()?;
        let ask_at = inner.no_ping_before.map_or(ask_at, |before| before.max(ask_at));
        if inner.ping.is_none() {
            if now < ask_at {
                return Some(ask_at - now);
            }
            let ping = self.begin(inner, "ping", object(vec![]), None, None);
            inner.ping = Some(ping);
        }
        let sent = inner.ping.as_ref().map_or(now, |ping| ping.sent);
        // A process that was stopped itself asks before it judges.
        let judge_at = |lock: &Arc<Shared>| {
            let hold = lock.hold.lock().unwrap();
            hold.deadline.unwrap_or(now).max(sent + answer_time(hold.span))
        };
        for lock in locks.iter().filter(|lock| now >= judge_at(lock)) {
            let first = lock.hold.lock().unwrap().has.iter().next().map(|(name, token)| (name.clone(), *token));
            if let Some((name, token)) = first {
                lose(inner, lock, &Loss { name, token, reason: "lease_expired".into(), grace_ms: 0, detail: None });
            }
            self.give_back(inner, lock);
        }
        timed(inner).iter().map(judge_at).min().map(|next| next.saturating_duration_since(now))
    }
}

fn span(milliseconds: i64) -> Duration {
    // It is used in sums: nothing of it is longer than a century.
    Duration::from_millis(u64::try_from(milliseconds).unwrap_or(0).min(100 * 366 * 86_400 * 1000))
}

/// For how long the daemon may leave unanswered how long a hold is good.
fn answer_time(span: Duration) -> Duration {
    (span / 4).min(Duration::from_secs(1))
}

fn end(inner: &Inner) -> Error {
    inner.fault.clone().unwrap_or_else(|| Error::new("connection_lost", "the connection to the daemon has ended"))
}

fn forget(inner: &mut Inner, lock: &Arc<Shared>, name: &str, token: i64) {
    let pair = (name.to_string(), token);
    if let Some(sharing) = inner.holdings.get_mut(&pair) {
        if let Some(index) = sharing.iter().position(|other| Arc::ptr_eq(other, lock)) {
            sharing.remove(index);
        }
        if sharing.is_empty() {
            inner.holdings.remove(&pair);
        }
    }
}

fn register(inner: &mut Inner, lock: &Arc<Shared>) {
    for (name, token) in &lock.hold.lock().unwrap().has {
        inner.holdings.entry((name.clone(), *token)).or_default().push(lock.clone());
    }
}

fn tell_watches(inner: &mut Inner, event: &Value) {
    let calls: Vec<_> = inner.watches.values().cloned().collect();
    for call in calls {
        let event = event.clone();
        inner.calls.push(Box::new(move || call(event)));
    }
}

fn lose(inner: &mut Inner, lock: &Arc<Shared>, loss: &Loss) {
    let mut hold = lock.hold.lock().unwrap();
    if loss.reason != "lease_expired" {
        hold.has.remove(&loss.name);
    }
    if hold.state != State::Held {
        return;
    }
    hold.state = State::Lost;
    hold.loss = Some(loss.clone());
    let (lock, loss) = (lock.clone(), loss.clone());
    inner.calls.push(Box::new(move || {
        // Looked up when it is called: of a lock that was transferred it may be set only then.
        let call = lock.hold.lock().unwrap().options.on_lost.clone();
        if let Some(call) = call {
            call(loss);
        }
    }));
}

fn timed(inner: &Inner) -> Vec<Arc<Shared>> {
    inner.holdings.values().flatten().filter(|lock| {
        let hold = lock.hold.lock().unwrap();
        hold.state == State::Held && hold.deadline.is_some()
    }).cloned().collect()
}

fn ping_answered(inner: &mut Inner, ping: &Request, result: &Value) {
    inner.no_ping_before = Some(Instant::now() + Duration::from_millis(100));
    for lock in timed(inner) {
        let mut hold = lock.hold.lock().unwrap();
        if let Some(valid) = result.number("valid_ms") {
            // This counts for all that was held when it was answered, from when it was asked.
            hold.span = span(valid);
            hold.deadline = hold.deadline.max(Some(ping.sent + hold.span));
        } else if inner.holdings.len() > HOLDS_TOLD_MAX {
            hold.deadline = None;
        }
    }
}
