//! How long the hot paths take: what a connection costs before its first byte, and each record. The same paths whose
//! instructions `sidegate-instructions` counts.

use criterion::{Criterion, criterion_group, criterion_main};
use sidegate_instructions::PATHS;

fn paths(c: &mut Criterion) {
    for (name, set_up, _) in PATHS {
        let mut step = set_up();
        c.bench_function(name, |bencher| bencher.iter(&mut step));
    }
}

criterion_group!(benches, paths);
criterion_main!(benches);
