//! Several replicas, one book: what each of them says is wrong, and what the cluster makes of it.
//!
//! A replica states its [`claims`]: what is wrong by what it heard itself. One replica at a time joins those of all
//! ([`joined`]) and applies them to the book of the cluster. Which replica that is decides a lease elsewhere.
//!
//! A claim alone is not the truth: a device that one replica does not hear may be heard by another. When each replica
//! heard a device last ([`heard`]) decides.

pub mod claims;
pub mod heard;
pub mod joined;
