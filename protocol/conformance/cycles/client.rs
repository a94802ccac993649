use std::time::{Duration, Instant};

fn main() {
    let seconds: f64 = std::env::var("CYCLES_SECONDS").unwrap().parse().unwrap();
    let (end, mut count) = (Instant::now() + Duration::from_secs_f64(seconds), 0);
    let client = sidelock::Client::new();
    while Instant::now() < end {
        client.acquire(&["cycles"], sidelock::Options::new()).unwrap().release().unwrap();
        count += 1;
    }
    println!("{count}");
}
