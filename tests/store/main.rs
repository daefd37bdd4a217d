//! The store against real Redis servers: its commands, every topology, and every kind of failure.

#[path = "../fault_proxy/mod.rs"]
mod fault_proxy;
#[path = "../harness/mod.rs"]
mod harness;
#[path = "../simulation/keyspace.rs"]
#[allow(dead_code, reason = "the simulation uses more of it")]
mod keyspace;
#[path = "../simulation/random.rs"]
#[allow(dead_code, reason = "the simulation uses more of it")]
mod random;
#[path = "../redis_server/mod.rs"]
mod redis_server;
#[path = "../store_ledger/mod.rs"]
mod store_ledger;
#[path = "../fault_proxy/tests.rs"]
mod tests_of_the_proxy;
#[path = "../webhook/mod.rs"]
mod webhook;

mod commands;
mod failover;
mod faults;
mod handover;
mod incidents;
mod lists;
mod replica;
mod restarts;
mod shards;
mod sharing;
mod simulation_model;
mod topologies;
