//! How long the relay takes: small messages there and back through a pair of sidecars, and much at once.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sidegate_devkit::harness::{Echo, Pair};

const HOUR: Duration = Duration::from_secs(3600);
const MUCH: usize = 4 << 20;

fn round_trip(c: &mut Criterion) {
    let echo = Echo::start();
    let pair = Pair::start(echo.address, HOUR, "");
    let mut tcp = TcpStream::connect(pair.entry).unwrap();
    tcp.set_nodelay(true).unwrap();
    for length in [64, 16 * 1024] {
        let (message, mut answer) = (vec![7; length], vec![0; length]);
        c.bench_function(&format!("{length} bytes there and back"), |bencher| {
            bencher.iter(|| {
                tcp.write_all(&message).unwrap();
                tcp.read_exact(&mut answer).unwrap();
            });
        });
    }
}

fn upload(c: &mut Criterion) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let pair = Pair::start(listener.local_addr().unwrap(), HOUR, "");
    // Reads to the end, then says so.
    std::thread::spawn(move || {
        for tcp in listener.incoming() {
            let mut tcp = tcp.unwrap();
            let mut scrap = vec![0; 1 << 17];
            while tcp.read(&mut scrap).unwrap() > 0 {}
            let _ = tcp.write_all(&[1]);
        }
    });
    let data = vec![7; MUCH];
    let mut group = c.benchmark_group("upload");
    group.throughput(Throughput::Bytes(MUCH as u64));
    group.bench_function("4 MiB on a connection of their own", |bencher| {
        bencher.iter(|| {
            let mut tcp = TcpStream::connect(pair.entry).unwrap();
            tcp.write_all(&data).unwrap();
            tcp.shutdown(Shutdown::Write).unwrap();
            tcp.read_exact(&mut [0]).unwrap();
        });
    });
}

criterion_group!(benches, round_trip, upload);
criterion_main!(benches);
