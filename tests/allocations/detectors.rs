//! What detectors take from the allocator: nothing, once a stream's memory is there.

use sigmad_detectors::Detector;
use sigmad_detectors::novelty::Novelty;
use sigmad_detectors::pager::Pager;
use sigmad_detectors::residual::Residual;
use sigmad_detectors::robust::Robust;

use crate::counting;

fn calls<D: Detector>() -> usize {
    let mut detector = Box::new(D::default());
    let before = counting::calls();
    let mut loudest = 0.0f64;
    for row in 0..50_000i64 {
        // A wave of the day with noise, a spike now and then, and a level that moves to far away.
        let noise = (row * 7_919 % 1_009) as f64 / 1_009.0;
        let wave = (row as f64 / 1_440.0 * std::f64::consts::TAU).sin();
        let spike = if row % 997 == 0 { 50.0 } else { 0.0 };
        let level = if row > 25_000 { 1e9 } else { 0.0 };
        let score = detector.observe(row * 60_000_000, level + 10.0 * wave + noise + spike);
        loudest = loudest.max(score);
    }
    assert!(loudest >= D::THRESHOLD);
    counting::calls() - before
}

#[test]
fn a_value_allocates_nothing() {
    assert_eq!(calls::<Robust>(), 0);
    assert_eq!(calls::<Residual>(), 0);
    assert_eq!(calls::<Novelty>(), 0);
    assert_eq!(calls::<Pager>(), 0);
}
