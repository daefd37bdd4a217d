//! The real binary, asked through real sockets.

#[path = "../grammar/mod.rs"]
mod grammar;
#[path = "../harness/mod.rs"]
mod harness;
#[path = "../redis_server/mod.rs"]
mod redis_server;
#[path = "../store_ledger/mod.rs"]
mod store_ledger;
#[path = "../webhook/mod.rs"]
mod webhook;

mod acknowledgement;
mod api;
mod cli;
mod hostile;
mod incidents;
mod kept;
mod load;
mod logs;
mod memory;
mod names;
mod notify;
mod shards;
mod signals;
mod soak;
mod state;
mod tls;
mod unix;
