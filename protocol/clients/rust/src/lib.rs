//! Locks over processes and hosts, from the sidelockd of this host.
//!
//! ```no_run
//! let client = sidelock::Client::new();
//! let lock = client.acquire(&["orders"], sidelock::Options::new().wait(std::time::Duration::from_secs(5)))?;
//! println!("held under {}", lock.token()?);
//! lock.release()?;
//! # Ok::<(), sidelock::Error>(())
//! ```

mod connection;
pub mod json;

use connection::{Connection, Request};
use json::{object, text, Value};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How a hold ended without a release. The reason is `connection_ended` when the daemon has gone.
#[derive(Clone, Debug, PartialEq)]
pub struct Loss {
    pub name: String,
    pub token: i64,
    pub reason: String,
    pub grace_ms: i64,
    pub detail: Option<String>,
}

/// What kind of an error it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// A try met a lock in use.
    Busy,
    /// The lock did not become free in time.
    Timeout,
    /// The wait was withdrawn.
    Cancelled,
    /// The lock is not held.
    NotHeld,
    /// The lock was lost: stop what it guarded.
    Lost,
    /// The rules, or the permissions of the socket, keep this program out.
    Denied,
    /// Redis or the daemon cannot be reached now.
    Unavailable,
    /// The wait would never have ended, because owners wait for each other.
    Deadlock,
    /// Too few replicas of Redis had the lease in time, so the lock was given back.
    UnderReplicated,
    /// All others: see the reason.
    Other,
}

/// Whatever goes wrong with a lock. `reason` is the stable name of errors.json, or one that this client found.
#[derive(Clone, Debug)]
pub struct Error {
    pub kind: Kind,
    pub reason: String,
    pub message: String,
    /// Who has the lock, as far as the daemon tells.
    pub holders: Vec<Value>,
    /// Of [`Kind::UnderReplicated`]: how many replicas had the lease in time; 0 also where the daemon does not tell.
    pub acknowledged: Option<i64>,
    /// Of [`Kind::Lost`]: how.
    pub loss: Option<Loss>,
    /// What the daemon said beside it.
    pub data: Value,
}

impl Error {
    fn new(reason: &str, message: impl Into<String>) -> Error {
        let kind = match reason {
            "busy" => Kind::Busy,
            "timeout" => Kind::Timeout,
            "cancelled" => Kind::Cancelled,
            "not_held" => Kind::NotHeld,
            "lost" => Kind::Lost,
            "denied" | "permission" => Kind::Denied,
            "unavailable" | "shutting_down" | "no_daemon" | "no_answer" | "connection_lost" => Kind::Unavailable,
            "deadlock" => Kind::Deadlock,
            "under_replicated" => Kind::UnderReplicated,
            _ => Kind::Other,
        };
        let acknowledged = (kind == Kind::UnderReplicated).then_some(0);
        Error { kind, reason: reason.into(), message: message.into(), holders: vec![], acknowledged, loss: None, data: Value::Null }
    }

    fn lost(loss: Loss) -> Error {
        let why = loss.detail.as_ref().unwrap_or(&loss.reason);
        let mut error = Error::new("lost", format!("lock {} is lost: {why}", loss.name));
        error.loss = Some(loss);
        error
    }

    fn refusal(reply: &Value) -> Error {
        let data = reply.get("data").cloned().unwrap_or(Value::Null);
        let mut message = reply.text("message").unwrap_or("the daemon gave no message").to_string();
        if let Some(detail) = data.text("detail") {
            message = format!("{message}: {detail}");
        }
        let mut error = Error::new(data.text("reason").unwrap_or(""), message);
        error.holders = data.list("holders").unwrap_or(&[]).to_vec();
        error.acknowledged = error.acknowledged.map(|none| data.number("acknowledged").unwrap_or(none));
        error.data = data;
        error
    }
}

impl fmt::Display for Error {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

type Call<T> = Arc<dyn Fn(T) + Send + Sync>;

/// How to hold a lock. Without more it waits without limit, alone, for the thread that asks.
#[derive(Clone, Default)]
pub struct Options {
    params: BTreeMap<String, Value>,
    wait: Option<Duration>,
    has_owner: bool,
    on_lost: Option<Call<Loss>>,
    on_waiting: Option<Call<Value>>,
    on_contended: Option<Call<i64>>,
}

impl Options {
    pub fn new() -> Options {
        Options::default()
    }

    fn with(mut self, key: &str, value: Value) -> Options {
        self.params.insert(key.into(), value);
        self
    }

    /// How long to wait; zero: a try.
    pub fn wait(mut self, time: Duration) -> Options {
        self.wait = Some(time);
        self.with("wait_ms", Value::Number(milliseconds(time)))
    }

    /// Shares the lock.
    pub fn shared(self) -> Options {
        self.with("mode", text("shared"))
    }

    /// One permit of a semaphore of so many.
    pub fn permits(self, capacity: i64) -> Options {
        self.with("permits", Value::Number(capacity))
    }

    /// After what time the hold ends.
    pub fn max_hold(self, time: Duration) -> Options {
        self.with("max_hold_ms", Value::Number(milliseconds(time).max(1)))
    }

    /// Gets at once what it holds; the thread unless told. None: nobody, who waits for himself.
    pub fn owner(mut self, name: Option<&str>) -> Options {
        self.has_owner = true;
        match name {
            Some(name) => self.with("owner", text(name)),
            None => self,
        }
    }

    /// A note that others see.
    pub fn meta(self, note: &str) -> Options {
        self.with("meta", text(note))
    }

    /// "terminate" or "kill" this process when the lock is lost.
    pub fn enforce(self, action: &str) -> Options {
        self.with("on_lost", text(action))
    }

    /// How many replicas of Redis have to have the lease; as many as the daemon's settings say unless told.
    pub fn replicas(self, count: u32) -> Options {
        self.with("replicas", Value::Number(count.into()))
    }

    /// Where the primary and those replicas have to have it: "memory" or "disk"; as the daemon's settings say unless told.
    pub fn durability(self, place: &str) -> Options {
        self.with("durability", text(place))
    }

    /// Called by the thread that reads, which it must not keep, when the lock is lost.
    pub fn on_lost(mut self, call: impl Fn(Loss) + Send + Sync + 'static) -> Options {
        self.on_lost = Some(Arc::new(call));
        self
    }

    /// Called with the place in the queue and who has the lock, when the request has to wait.
    pub fn on_waiting(mut self, call: impl Fn(Value) + Send + Sync + 'static) -> Options {
        self.on_waiting = Some(Arc::new(call));
        self.with("progress", Value::Bool(true))
    }

    /// Called with their number, when others wait for the lock.
    pub fn on_contended(mut self, call: impl Fn(i64) + Send + Sync + 'static) -> Options {
        self.on_contended = Some(Arc::new(call));
        self.with("progress", Value::Bool(true))
    }
}

/// Rounded up, so that a short wait is no try.
fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.saturating_add(Duration::from_nanos(999_999)).as_millis()).unwrap_or(i64::MAX)
}

/// Where the daemon listens: what is given, $SIDELOCK_SOCKET, the user's own daemon if there is one, the system's.
pub fn socket_path(explicit: Option<&str>) -> String {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    if let Some(path) = explicit.filter(|path| !path.is_empty()).map(String::from).or_else(|| variable("SIDELOCK_SOCKET")) {
        return path;
    }
    if let Some(directory) = variable("XDG_RUNTIME_DIR") {
        let own = format!("{directory}/sidelock/sidelock.sock");
        match std::fs::metadata(&own) {
            Ok(_) => return own,
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => return own,
            Err(_) => {}
        }
    }
    "/run/sidelock/sidelock.sock".into()
}

static THREADS: AtomicU64 = AtomicU64::new(1);

thread_local! {
    static OWNER: RefCell<String> = RefCell::new(format!("thread-{}", THREADS.fetch_add(1, Ordering::Relaxed)));
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Waiting,
    Held,
    Released,
    Lost,
}

/// What the connection knows of a hold.
struct Hold {
    state: State,
    loss: Option<Loss>,
    mode: String,
    tokens: BTreeMap<String, i64>,
    has: BTreeMap<String, i64>,
    deadline: Option<Instant>,
    span: Duration,
    options: Options,
}

impl Hold {
    /// Whether its time is over: it is not to be believed then until the daemon has answered.
    fn is_over(&self) -> bool {
        self.state == State::Held && self.deadline.map_or(false, |deadline| deadline <= Instant::now())
    }
}

struct Shared {
    names: Vec<String>,
    hold: Mutex<Hold>,
}

impl Shared {
    fn new(names: Vec<String>, options: Options) -> Arc<Shared> {
        let hold = Hold {
            state: State::Waiting,
            loss: None,
            mode: String::new(),
            tokens: BTreeMap::new(),
            has: BTreeMap::new(),
            deadline: None,
            span: Duration::ZERO,
            options,
        };
        Arc::new(Shared { names, hold: Mutex::new(hold) })
    }
}

/// A wait that another thread may withdraw.
#[derive(Clone, Default)]
pub struct Ticket(Arc<Mutex<TicketState>>);

#[derive(Default)]
struct TicketState {
    is_cancelled: bool,
    request: Option<(Arc<Connection>, Arc<Request>)>,
}

impl Ticket {
    pub fn new() -> Ticket {
        Ticket::default()
    }

    /// Withdraws the wait. A lock that is granted meanwhile is given back.
    pub fn cancel(&self) {
        let mut state = self.0.lock().unwrap();
        state.is_cancelled = true;
        if let Some((connection, request)) = state.request.clone() {
            drop(state);
            connection.withdraw(&request);
        }
    }
}

/// A connection that all threads share, made when it is needed, and again when it has ended.
pub struct Client {
    path: Option<String>,
    patience: Duration,
    state: Mutex<ClientState>,
}

#[derive(Default)]
struct ClientState {
    connection: Option<Arc<Connection>>,
    accept: Option<Call<Lock>>,
}

impl Default for Client {
    fn default() -> Client {
        Client::new()
    }
}

impl Client {
    /// A client for the daemon where the sidelock command looks for it.
    pub fn new() -> Client {
        Client::with(None, Duration::from_secs(5))
    }

    /// `patience`: for how long the daemon may leave a request unanswered, beyond what was to be waited.
    pub fn with(path: Option<&str>, patience: Duration) -> Client {
        Client { path: path.map(String::from), patience, state: Mutex::default() }
    }

    /// Where this client looks for the daemon.
    pub fn path(&self) -> String {
        socket_path(self.path.as_deref())
    }

    fn connected(&self) -> Result<Arc<Connection>, Error> {
        let mut state = self.state.lock().unwrap();
        if let Some(connection) = &state.connection {
            if !connection.is_broken() {
                return Ok(connection.clone());
            }
        }
        let connection = Connection::open(&self.path(), self.patience)?;
        if let Err(error) = connection.initialize(state.accept.clone()) {
            connection.close();
            return Err(error);
        }
        state.connection = Some(connection.clone());
        Ok(connection)
    }

    /// Starts a request, over a new connection where the daemon had closed the old one before.
    fn start(&self, method: &'static str, params: Value, lock: Option<Arc<Shared>>, told: Option<Call<Value>>)
        -> Result<(Arc<Connection>, Arc<Request>), Error> {
        let connection = self.connected()?;
        let request = connection.start(method, params.clone(), lock.clone(), told.clone());
        if !request.is_unsent() {
            return Ok((connection, request));
        }
        connection.wait_ended();
        let connection = self.connected()?;
        let request = connection.start(method, params, lock, told);
        Ok((connection, request))
    }

    /// Takes one lock, or several, all or none. It is given back when it is dropped.
    pub fn acquire(&self, names: &[&str], options: Options) -> Result<Lock, Error> {
        self.acquire_with(&Ticket::new(), names, options)
    }

    /// The same, in a way that another thread may cancel.
    pub fn acquire_with(&self, ticket: &Ticket, names: &[&str], options: Options) -> Result<Lock, Error> {
        let mut params = options.params.clone();
        if let [name] = names {
            params.insert("name".into(), text(name));
        } else {
            params.insert("names".into(), Value::List(names.iter().map(|name| text(name)).collect()));
        }
        if !options.has_owner {
            params.insert("owner".into(), Value::Text(OWNER.with(|owner| owner.borrow().clone())));
        }
        let wait = options.wait;
        let shared = Shared::new(names.iter().map(|name| name.to_string()).collect(), options);
        let (connection, request) = self.start("acquire", Value::Object(params), Some(shared.clone()), None)?;
        let is_cancelled = {
            let mut state = ticket.0.lock().unwrap();
            state.request = Some((connection.clone(), request.clone()));
            state.is_cancelled
        };
        if is_cancelled {
            connection.withdraw(&request);
        }
        connection.finish(&request, wait)?;
        Ok(Lock { shared, connection })
    }

    /// Runs the body while the lock is held, and gives the lock back. The error is of [`Kind::Lost`] when it was lost meanwhile.
    pub fn scope<T>(&self, names: &[&str], options: Options, body: impl FnOnce(&Lock) -> T) -> Result<T, Error> {
        let lock = self.acquire(names, options)?;
        let value = body(&lock);
        if lock.is_open() {
            lock.release()?;
        }
        Ok(value)
    }

    /// Any method of the protocol, and its result.
    pub fn call(&self, method: &'static str, params: Value) -> Result<Value, Error> {
        let (connection, request) = self.start(method, params, None, None)?;
        connection.finish(&request, Some(Duration::ZERO))
    }

    /// Events of a lock; the call is made by the thread that reads. The last one has the kind "ended".
    pub fn watch(&self, name: &str, told: impl Fn(Value) + Send + Sync + 'static) -> Result<Watch, Error> {
        self.watch_what("name", name, Arc::new(told))
    }

    /// Events of all locks whose name begins alike.
    pub fn watch_prefix(&self, prefix: &str, told: impl Fn(Value) + Send + Sync + 'static) -> Result<Watch, Error> {
        self.watch_what("prefix", prefix, Arc::new(told))
    }

    fn watch_what(&self, key: &str, value: &str, told: Call<Value>) -> Result<Watch, Error> {
        let (connection, request) = self.start("watch", object(vec![(key, text(value))]), None, Some(told))?;
        let number = connection.finish(&request, Some(Duration::ZERO))?.number("watch").unwrap_or(0);
        Ok(Watch { connection, number })
    }

    /// The daemon's name for this client; others transfer locks to it.
    pub fn session(&self) -> Result<String, Error> {
        Ok(self.connected()?.session())
    }

    /// From now on others may hand over locks; the call gets each, held, in the thread that reads.
    pub fn accept_transfers(&self, call: impl Fn(Lock) + Send + Sync + 'static) -> Result<(), Error> {
        let accept: Call<Lock> = Arc::new(call);
        self.state.lock().unwrap().accept = Some(accept.clone());
        let connection = self.connected()?;
        connection.accepts(accept);
        connection.call("initialize", object(vec![("accept_transfers", Value::Bool(true))])).map(|_| ())
    }

    /// Gives everything back. The client may be used again.
    pub fn close(&self) {
        let connection = self.state.lock().unwrap().connection.take();
        if let Some(connection) = connection {
            connection.close();
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.close();
    }
}

/// A watch.
pub struct Watch {
    connection: Arc<Connection>,
    number: i64,
}

impl Watch {
    /// No more events come.
    pub fn close(&self) -> Result<(), Error> {
        if !self.connection.unwatch(self.number) {
            return Ok(());
        }
        self.connection.call("unwatch", object(vec![("watch", Value::Number(self.number))])).map(|_| ())
    }
}

/// A lock, or several that were taken all or none. It is given back when it is dropped.
pub struct Lock {
    shared: Arc<Shared>,
    connection: Arc<Connection>,
}

impl Lock {
    fn hold(&self) -> std::sync::MutexGuard<'_, Hold> {
        self.shared.hold.lock().unwrap()
    }

    pub fn names(&self) -> &[String] {
        &self.shared.names
    }

    /// `exclusive`, `shared` or `permit`.
    pub fn mode(&self) -> String {
        self.hold().mode.clone()
    }

    /// Whether it is held, as far as this process has been told; no longer than it is good without an answer of the daemon.
    pub fn is_held(&self) -> bool {
        let hold = self.looked_at();
        hold.state == State::Held && !hold.is_over()
    }

    /// What is known of the hold; where its time is over, when the daemon was asked.
    fn looked_at(&self) -> std::sync::MutexGuard<'_, Hold> {
        let hold = self.hold();
        if !hold.is_over() {
            return hold;
        }
        let span = hold.span;
        drop(hold);
        self.connection.confirm(span);
        self.hold()
    }

    fn is_open(&self) -> bool {
        matches!(self.hold().state, State::Held | State::Lost)
    }

    /// How it was lost.
    pub fn loss(&self) -> Option<Loss> {
        self.hold().loss.clone()
    }

    fn not_held(&self) -> Error {
        Error::new("not_held", format!("lock {} is not held here", self.shared.names[0]))
    }

    /// An error if the lock was lost, is not held, or its time is over and the daemon has not said yet that it is still held.
    pub fn check(&self) -> Result<(), Error> {
        let hold = self.looked_at();
        match (&hold.loss, hold.state) {
            (Some(loss), _) => Err(Error::lost(loss.clone())),
            (None, State::Held) if hold.is_over() => {
                let name = &self.shared.names[0];
                Err(Error::new("no_answer", format!("the time of lock {name} is over, and the daemon has not said yet that it is still held")))
            }
            (None, State::Held) => Ok(()),
            _ => Err(self.not_held()),
        }
    }

    /// The fencing token of the first name: send it along with every write.
    pub fn token(&self) -> Result<i64, Error> {
        self.token_of(&self.shared.names[0])
    }

    /// The token of a name.
    pub fn token_of(&self, name: &str) -> Result<i64, Error> {
        self.check()?;
        self.hold().tokens.get(name).copied().ok_or_else(|| self.not_held())
    }

    /// For how long from now the hold is good for certain; None: it does not end by itself.
    pub fn valid(&self) -> Option<Duration> {
        let hold = self.hold();
        if hold.state != State::Held {
            return Some(Duration::ZERO);
        }
        hold.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Sets what is called when the lock is lost, of one that was transferred.
    pub fn on_lost(&self, call: impl Fn(Loss) + Send + Sync + 'static) {
        self.hold().options.on_lost = Some(Arc::new(call));
    }

    /// Gives the lock back. The error is of [`Kind::Lost`] if it was lost before.
    pub fn release(&self) -> Result<(), Error> {
        if !self.is_open() {
            return Err(self.not_held());
        }
        let has = self.hold().has.clone();
        let mut failure = None;
        if !self.connection.has_ended() {
            let requests: Vec<_> = has.iter().map(|(name, token)| {
                let params = object(vec![("name", text(name)), ("token", Value::Number(*token))]);
                self.connection.start("release", params, Some(self.shared.clone()), None)
            }).collect();
            for request in requests {
                if let Err(error) = self.connection.finish(&request, Some(Duration::ZERO)) {
                    failure = failure.or(Some(error));
                }
            }
            self.connection.forget_all(&self.shared, &has);
        }
        let mut hold = self.hold();
        hold.state = State::Released;
        if let Some(loss) = &hold.loss {
            return Err(Error::lost(loss.clone()));
        }
        match failure {
            Some(error) if error.reason == "lost" => {
                let name = self.shared.names[0].clone();
                let token = hold.tokens.get(&name).copied().unwrap_or(0);
                let reason = error.data.text("lost").unwrap_or("").to_string();
                Err(Error::lost(Loss { name, token, reason, grace_ms: 0, detail: None }))
            }
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Shares from now on what was held alone.
    pub fn downgrade(&self) -> Result<(), Error> {
        self.of_one("downgrade", vec![])?;
        self.hold().mode = "shared".into();
        Ok(())
    }

    /// Sets anew after what time from now the hold ends; None: it does not.
    pub fn extend(&self, max_hold: Option<Duration>) -> Result<(), Error> {
        let limit = max_hold.map_or(Value::Null, |time| Value::Number(milliseconds(time).max(1)));
        self.of_one("extend", vec![("max_hold_ms", limit)])
    }

    /// Hands the lock to another session of this host, which must have asked for it.
    pub fn transfer(&self, session: &str) -> Result<(), Error> {
        self.of_one("transfer", vec![("session", text(session))])?;
        let has = self.hold().has.clone();
        self.connection.forget_all(&self.shared, &has);
        self.hold().state = State::Released;
        Ok(())
    }

    fn of_one(&self, method: &'static str, mut params: Vec<(&str, Value)>) -> Result<(), Error> {
        let token = self.token()?;
        let name = match &self.shared.names[..] {
            [name] => name,
            _ => return Err(Error::new("invalid_params", format!("{method} is for one lock at a time"))),
        };
        params.push(("name", text(name)));
        params.push(("token", Value::Number(token)));
        self.connection.call(method, object(params)).map(|_| ()).map_err(|error| self.loss().map_or(error, Error::lost))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if self.is_open() {
            // Who has to know of a loss calls `release` himself, or uses `Client::scope`.
            let _ = self.release();
        }
    }
}
