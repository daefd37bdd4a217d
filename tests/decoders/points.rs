//! What the decoders of points keep is within the bounds, whatever the body.

use std::fs;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::json::{mutate, mutation};
use crate::points_bounds::Checked;

/// The seeds of the fuzz target, in the order of their names.
fn seeds() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/points");
    let files = fs::read_dir(folder).expect("there are seeds");
    let mut paths: Vec<_> = files.map(|file| file.expect("readable").path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("readable")).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn on_damaged_seeds(bodies in vec((select(seeds()), vec(mutation(), 0..8)), 1..4)) {
        let mut checked = Checked::new();
        for (seed, mutations) in bodies {
            checked.check(&mutate(seed, &mutations));
        }
    }
}
