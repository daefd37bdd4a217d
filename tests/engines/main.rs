//! Both engines and the TLS poller, with test services instead of sigmad's.

#[path = "../grammar/agreement.rs"]
mod agreement;
#[path = "../certificates/mod.rs"]
mod certificates;
#[path = "../conversation/mod.rs"]
mod conversation;
#[path = "../grammar/mod.rs"]
mod grammar;

mod framing;
mod may;
mod pollers;
mod tls_poller;
