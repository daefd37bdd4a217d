//! Heads from strangers: the search for the end and the parser agree, whatever the split.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sigmad::http::head::{EMPTY_SLOTS, HeadSearch, check_partial, find_end, parse};
use sigmad::http::head_cache::{EMPTY_FIELDS, HeadCache};

const HEAD_MAX: usize = 4096;

fuzz_target!(|data: &[u8]| {
    let whole = find_end(data, &mut HeadSearch::default(), HEAD_MAX);
    let mut search = HeadSearch::default();
    let mut in_steps = Ok(None);
    for end in 0..=data.len() {
        in_steps = find_end(&data[..end], &mut search, HEAD_MAX);
        if in_steps != Ok(None) {
            break;
        }
    }
    assert_eq!(whole.is_ok(), in_steps.is_ok());
    if let Ok(Some(length)) = whole {
        assert_eq!(in_steps, Ok(Some(length)));
        let mut slots = EMPTY_SLOTS;
        if let Ok(head) = parse(&data[..length], &mut slots, 1000) {
            assert!(head.path.starts_with('/') || head.path == "*");
            assert!(!data[..length].windows(2).any(|pair| pair[0] == b'\r' && pair[1] != b'\n'));
            let mut cache = HeadCache::default();
            cache.insert(&data[..length], &head);
            let mut again = data.to_vec();
            let mut fields = EMPTY_FIELDS;
            if let Ok((cached, bytes, rest)) = cache.split(&mut again, &mut fields) {
                assert_eq!(format!("{head:?}"), format!("{cached:?}"));
                assert_eq!((bytes, &*rest), data.split_at(length));
            }
            for end in 0..length {
                assert_eq!(check_partial(&data[..end]), Ok(()));
            }
        }
    }
});
