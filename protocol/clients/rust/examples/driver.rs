//! The conformance suite's driver. See protocol/conformance/README.md.

use sidelock::json::Value;
use sidelock::{Client, Error, Kind, Lock, Loss, Options, Ticket, Watch};
use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::sync::mpsc::{channel, Sender};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

type Fields = Vec<(&'static str, String)>;

struct Args {
    tag: String,
    verb: String,
    names: Vec<String>,
    values: HashMap<String, String>,
}

impl Args {
    fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    fn label(&self) -> String {
        self.get("lock").unwrap_or("").into()
    }

    fn duration(&self, key: &str) -> Option<Duration> {
        self.get(key).map(|value| Duration::from_millis(value.parse().unwrap_or(0)))
    }
}

enum Failure {
    Body,
    Refused(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Refused(error)
    }
}

#[derive(Default)]
struct Parts {
    locks: HashMap<String, Arc<Lock>>,
    tickets: HashMap<String, Ticket>,
    watches: HashMap<String, Arc<Watch>>,
    leaves: HashMap<String, bool>,
}

struct Driver {
    client: Mutex<Arc<Client>>,
    parts: Mutex<Parts>,
    left: Condvar,
}

fn say(head: &str, fields: &[(&str, String)]) {
    let mut line = head.to_string();
    for (key, value) in fields {
        line.push_str(&format!(" {key}="));
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"/:,-._".contains(&byte) {
                line.push(byte as char);
            } else {
                line.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    line.push('\n');
    let mut output = std::io::stdout().lock();
    output.write_all(line.as_bytes()).and_then(|()| output.flush()).unwrap();
}

fn decoded(text: &str) -> String {
    let (mut bytes, mut found) = (text.bytes(), Vec::new());
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
            found.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
        } else {
            found.push(byte);
        }
    }
    String::from_utf8(found).unwrap()
}

fn parse(line: &str) -> Args {
    let mut words = line.split(' ');
    let (tag, verb) = (words.next().unwrap().into(), words.next().unwrap_or("").into());
    let mut args = Args { tag, verb, names: vec![], values: HashMap::new() };
    for word in words {
        let (key, value) = word.split_once('=').unwrap();
        if key == "name" {
            args.names.push(decoded(value));
        }
        args.values.insert(key.into(), decoded(value));
    }
    args
}

fn told_loss(label: String) -> impl Fn(Loss) + Send + Sync {
    move |loss| {
        say("event lost", &[("lock", label.clone()), ("name", loss.name), ("token", loss.token.to_string()), ("reason", loss.reason),
            ("grace_ms", loss.grace_ms.to_string())]);
    }
}

fn options(args: &Args) -> Options {
    let label = args.label();
    let mut made = Options::new().on_lost(told_loss(label.clone()));
    if let Some(wait) = args.duration("wait") {
        made = made.wait(wait);
    }
    if args.get("mode") == Some("shared") {
        made = made.shared();
    }
    if let Some(permits) = args.get("permits") {
        made = made.permits(permits.parse().unwrap());
    }
    if let Some(max_hold) = args.duration("max_hold") {
        made = made.max_hold(max_hold);
    }
    if let Some(replicas) = args.get("replicas") {
        made = made.replicas(replicas.parse().unwrap());
    }
    if let Some(durability) = args.get("durability") {
        made = made.durability(durability);
    }
    if let Some(meta) = args.get("meta") {
        made = made.meta(meta);
    }
    if let Some(bytes) = args.get("meta_bytes") {
        made = made.meta(&"x".repeat(bytes.parse().unwrap()));
    }
    if args.get("progress").is_some() {
        let other = label.clone();
        made = made
            .on_waiting(move |told| {
                let position = told.number("position").unwrap_or(0);
                say("event waiting", &[("lock", label.clone()), ("position", position.to_string())]);
            })
            .on_contended(move |waiters| say("event contended", &[("lock", other.clone()), ("waiters", waiters.to_string())]));
    }
    made
}

fn valid(lock: &Lock) -> String {
    lock.valid().map_or("none".into(), |valid| valid.as_millis().to_string())
}

/// The token also of a lock that is lost already.
fn token(lock: &Lock, name: &str) -> String {
    lock.token_of(name).unwrap_or_else(|_| lock.loss().map_or(0, |loss| loss.token)).to_string()
}

impl Driver {
    fn parts(&self) -> std::sync::MutexGuard<'_, Parts> {
        self.parts.lock().unwrap()
    }

    fn lock(&self, args: &Args) -> Result<Arc<Lock>, Error> {
        Ok(self.parts().locks.get(&args.label()).expect("the lock was taken").clone())
    }

    fn run(self: &Arc<Self>, args: &Args) -> Result<Fields, Failure> {
        let client = self.client.lock().unwrap().clone();
        let names: Vec<&str> = args.names.iter().map(String::as_str).collect();
        let label = args.label();
        match args.verb.as_str() {
            "open" => {
                let patience = args.duration("answer_ms").unwrap_or(Duration::from_secs(5));
                *self.client.lock().unwrap() = Arc::new(Client::with(args.get("path"), patience));
            }
            "path" => return Ok(vec![("path", client.path())]),
            "session" => return Ok(vec![("session", client.session()?)]),
            "close" => client.close(),
            "acquire" => {
                let ticket = Ticket::new();
                self.parts().tickets.insert(args.tag.clone(), ticket.clone());
                let lock = Arc::new(client.acquire_with(&ticket, &names, options(args))?);
                let tokens: Vec<String> = names.iter().map(|name| token(&lock, name)).collect();
                let fields = vec![("token", tokens.join(",")), ("mode", lock.mode()), ("valid_ms", valid(&lock))];
                let old = self.parts().locks.insert(label, lock);
                drop(old);
                return Ok(fields);
            }
            "scope" => {
                let fails = client.scope(&names, options(args), |lock| {
                    if lock.is_held() {
                        say("event entered", &[("lock", label.clone()), ("token", token(lock, names[0]))]);
                    }
                    let parts = self.left.wait_while(self.parts(), |parts| !parts.leaves.contains_key(&label)).unwrap();
                    parts.leaves[&label]
                })?;
                if fails {
                    return Err(Failure::Body);
                }
            }
            "leave" => {
                self.parts().leaves.insert(label, args.get("fail").is_some());
                self.left.notify_all();
            }
            "release" => self.lock(args)?.release()?,
            "held" => {
                let lock = match self.parts().locks.get(&label).cloned() {
                    Some(lock) => lock,
                    None => return Ok(vec![("held", "0".into())]),
                };
                let mut fields = vec![("held", u8::from(lock.is_held()).to_string()), ("valid_ms", valid(&lock))];
                fields.extend(lock.loss().map(|loss| ("lost", loss.reason)));
                return Ok(fields);
            }
            "cancel" => {
                let ticket = self.parts().tickets[args.get("target").unwrap()].clone();
                ticket.cancel();
            }
            "downgrade" => self.lock(args)?.downgrade()?,
            "extend" => {
                let limit = if args.get("max_hold") == Some("none") { None } else { args.duration("max_hold") };
                self.lock(args)?.extend(limit)?;
            }
            "transfer" => self.lock(args)?.transfer(args.get("session").unwrap())?,
            "accept" => {
                let driver = self.clone();
                client.accept_transfers(move |lock| {
                    lock.on_lost(told_loss(label.clone()));
                    let name = lock.names()[0].clone();
                    let told = [("lock", label.clone()), ("token", token(&lock, &name)), ("name", name)];
                    driver.parts().locks.insert(label.clone(), Arc::new(lock));
                    say("event transferred", &told);
                })?;
            }
            "watch" => {
                let watch = args.get("watch").unwrap().to_string();
                let key = watch.clone();
                let told = move |event: Value| {
                    let mut fields = vec![("watch", watch.clone())];
                    for key in ["kind", "name"] {
                        fields.extend(event.text(key).map(|value| (key, value.to_string())));
                    }
                    fields.extend(event.number("token").map(|value| ("token", value.to_string())));
                    say("event watch", &fields);
                };
                let made = match names.first() {
                    Some(name) => client.watch(name, told)?,
                    None => client.watch_prefix(args.get("prefix").unwrap_or(""), told)?,
                };
                self.parts().watches.insert(key, Arc::new(made));
            }
            "unwatch" => {
                let watch = self.parts().watches[args.get("watch").unwrap()].clone();
                watch.close()?;
            }
            "cycles" => return Ok(cycles(&client, args)),
            "spawn" => {
                let child = std::process::Command::new("sleep").arg("60").stdin(std::process::Stdio::null()).spawn().unwrap();
                return Ok(vec![("pid", child.id().to_string())]);
            }
            _ => {}
        }
        Ok(vec![])
    }

    fn answer(self: &Arc<Self>, args: &Args) {
        match self.run(args) {
            Ok(fields) => say(&format!("{} ok", args.tag), &fields),
            Err(Failure::Body) => say(&format!("{} error body", args.tag), &[]),
            Err(Failure::Refused(error)) => {
                let kind = match error.kind {
                    Kind::Busy => "busy",
                    Kind::Timeout => "timeout",
                    Kind::Cancelled => "cancelled",
                    Kind::Lost => "lost",
                    Kind::Denied => "denied",
                    Kind::Unavailable => "unavailable",
                    Kind::Deadlock => "deadlock",
                    Kind::UnderReplicated => "under_replicated",
                    _ => "error",
                };
                let mut fields = vec![("type", kind.to_string()), ("message", error.message)];
                if kind == "busy" || kind == "timeout" {
                    fields.push(("holders", error.holders.len().to_string()));
                }
                fields.extend(error.acknowledged.map(|count| ("acknowledged", count.to_string())));
                fields.extend(error.loss.map(|loss| ("lost", loss.reason)));
                let reason = if error.reason.is_empty() { "unknown" } else { &error.reason };
                say(&format!("{} error {reason}", args.tag), &fields);
            }
        }
    }
}

fn cycles(client: &Arc<Client>, args: &Args) -> Fields {
    let (file, name) = (args.get("file").unwrap().to_string(), args.names[0].clone());
    std::fs::write(&file, "0").unwrap();
    let last = Arc::new(Mutex::new((0, true)));
    let count: usize = args.get("cycles").unwrap().parse().unwrap();
    let workers: usize = args.get("workers").unwrap().parse().unwrap();
    let threads: Vec<_> = (0..workers).map(|_| {
        let (client, last, file, name) = (client.clone(), last.clone(), file.clone(), name.clone());
        std::thread::spawn(move || {
            for _ in 0..count {
                let lock = client.acquire(&[&name], Options::new()).unwrap();
                let number: u64 = std::fs::read_to_string(&file).unwrap().parse().unwrap();
                std::fs::write(&file, (number + 1).to_string()).unwrap();
                let token = lock.token().unwrap();
                let mut last = last.lock().unwrap();
                *last = (token, last.1 && token > last.0);
                drop(last);
                lock.release().unwrap();
            }
        })
    }).collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let rising = last.lock().unwrap().1;
    vec![("rising", u8::from(rising).to_string())]
}

extern "C" fn ignored(_: i32) {}

extern "C" {
    fn signal(number: i32, handler: extern "C" fn(i32)) -> usize;
}

fn main() {
    const SIGUSR1: i32 = 10;
    // SAFETY: the handler does nothing, which it may do at any moment.
    unsafe { signal(SIGUSR1, ignored) };
    let driver = Arc::new(Driver { client: Mutex::new(Arc::new(Client::new())), parts: Mutex::default(), left: Condvar::new() });
    let mut workers: HashMap<String, Sender<Args>> = HashMap::new();
    say("driver 1", &[("language", "rust".into()), ("features", String::new())]);
    for line in std::io::stdin().lock().lines() {
        let args = parse(&line.unwrap());
        let worker = match args.verb.as_str() {
            "noop" | "held" | "cancel" | "leave" | "path" => {
                driver.answer(&args);
                continue;
            }
            "session" | "watch" | "unwatch" | "open" | "close" => "control".to_string(),
            _ => args.get("worker").unwrap_or("0").to_string(),
        };
        let jobs = workers.entry(worker).or_insert_with(|| {
            let (sender, jobs) = channel::<Args>();
            let driver = driver.clone();
            std::thread::spawn(move || jobs.iter().for_each(|args| driver.answer(&args)));
            sender
        });
        jobs.send(args).unwrap();
    }
    driver.client.lock().unwrap().close();
    std::process::exit(0);
}
