//! The law of requests: the engine serves what the grammar accepts. Shared by the property tests and a fuzz target.

use crate::conversation::{LIMITS, converse};
use crate::grammar::{self, Accepted, Bounds, Outcome};

const BOUNDS: Bounds =
    Bounds { head_bytes: LIMITS.head_bytes_max, fields: 100, body_bytes: LIMITS.body_bytes_max };

/// The law: the engine calls what the grammar accepts, and refuses what it does not.
pub fn agree(data: &[u8]) {
    let expected = grammar::parse(data, BOUNDS);
    let actual = converse([data], true);
    let calls: Vec<_> = actual
        .calls
        .iter()
        .map(|call| Accepted {
            path: call.path.clone(),
            query: call.query.clone(),
            body: call.body.clone(),
        })
        .collect();
    let refusals = actual.statuses.iter().filter(|&&status| status >= 400).count();
    let outcome = Outcome { accepted: calls, is_refused: refusals > 0 };
    assert_eq!(outcome, expected, "{}", data.escape_ascii());
    assert_eq!(actual.statuses.len(), expected.accepted.len() + refusals);
    assert!(refusals <= 1 && actual.is_closing);
}
