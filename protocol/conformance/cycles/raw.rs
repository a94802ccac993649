use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

const SCRIPT: &str = r#"if redis.call("GET", KEYS[1]) == ARGV[1] then return redis.call("DEL", KEYS[1]) else return 0 end"#;

fn ask(server: &mut UnixStream, expected: &str, words: &[&str]) {
    let mut line = format!("*{}\r\n", words.len());
    for word in words {
        line += &format!("${}\r\n{word}\r\n", word.len());
    }
    server.write_all(line.as_bytes()).unwrap();
    let mut answer = [0; 64];
    let count = server.read(&mut answer).unwrap();
    assert_eq!(&answer[..count], expected.as_bytes());
}

fn main() {
    let seconds: f64 = std::env::var("CYCLES_SECONDS").unwrap().parse().unwrap();
    let mut server = UnixStream::connect(std::env::var("CYCLES_REDIS").unwrap()).unwrap();
    let (end, mut count) = (Instant::now() + Duration::from_secs_f64(seconds), 0);
    while Instant::now() < end {
        ask(&mut server, "+OK\r\n", &["SET", "raw", "mine", "NX", "PX", "30000"]);
        ask(&mut server, ":1\r\n", &["EVAL", SCRIPT, "1", "raw", "mine"]);
        count += 1;
    }
    println!("{count}");
}
