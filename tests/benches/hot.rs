//! What a message costs in each function that it passes: `cargo bench -p switchyard-tests`, after `cargo
//! xtask guests`.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use switchyard_tests::hot::{FanOut, Filters, HistoryReplay, encode};

fn hot(criterion: &mut Criterion) {
    criterion.bench_function("encode", |bench| bench.iter(|| encode(black_box(4711))));

    let mut group = criterion.benchmark_group("fan-out");
    for members in [10, 1000, 10_000] {
        let mut room = FanOut::new(members);
        group.throughput(Throughput::Elements(members as u64));
        group.bench_function(BenchmarkId::from_parameter(members), |bench| {
            bench.iter(|| {
                let message = room.message();
                room.deliver(&message);
                room.flush();
            });
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("filter");
    for count in [1, 100, 1000] {
        let mut filters = Filters::new(count, false);
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::from_parameter(count), |bench| bench.iter(|| filters.matches()));
    }
    group.finish();

    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let _entered = runtime.enter();
    let mut group = criterion.benchmark_group("recover");
    for messages in [10, 1000] {
        let recovery = HistoryReplay::new(messages);
        group.throughput(Throughput::Elements(messages as u64));
        group.bench_function(BenchmarkId::from_parameter(messages), |bench| bench.iter(|| recovery.replay()));
    }
    group.finish();
}

criterion_group!(benches, hot);
criterion_main!(benches);
