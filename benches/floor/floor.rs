//! The floor: what the kernel alone asks for a small request, on one core.
//!
//! An epoll loop that parses nothing. It counts requests by their length, which is the same for all
//! and given on the command line, and answers each with the bytes of a file. A server that reads
//! its requests is compared with this one by `benches/headline.py`.
//!
//! Usage: `floor REQUEST_BYTES ANSWER_FILE`; prints the port it listens on.

use std::io::Write;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, IntoRawFd};

use libc::{EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLLIN, SOCK_CLOEXEC, SOCK_NONBLOCK, c_int};

/// Events of one round.
const EVENTS_MAX: usize = 256;
/// One read takes a batch of 1,000 samples whole.
const READ_BYTES: usize = 256 * 1024;
/// Answers that one read can ask for: a pipeline of small requests.
const ANSWERS_MAX: usize = 4096;
/// More than the connections of any run.
const DESCRIPTORS_MAX: usize = 8192;

fn checked(result: c_int, what: &str) -> c_int {
    assert!(result >= 0, "{what}: {}", std::io::Error::last_os_error());
    result
}

fn add(poll: c_int, descriptor: c_int) {
    let mut event = libc::epoll_event { events: EPOLLIN as u32, u64: descriptor as u64 };
    // SAFETY: both descriptors are open and the event outlives the call.
    let added = unsafe { libc::epoll_ctl(poll, EPOLL_CTL_ADD, descriptor, &mut event) };
    checked(added, "epoll_ctl");
}

fn accept_all(listener: c_int, poll: c_int) {
    loop {
        let flags = SOCK_NONBLOCK | SOCK_CLOEXEC;
        // SAFETY: null addresses are allowed: the peer is not asked for.
        let accepted =
            unsafe { libc::accept4(listener, std::ptr::null_mut(), std::ptr::null_mut(), flags) };
        if accepted < 0 {
            return;
        }
        assert!((accepted as usize) < DESCRIPTORS_MAX, "too many connections");
        let on: c_int = 1;
        // SAFETY: the option is an int and its size is given.
        let set = unsafe {
            let value = (&raw const on).cast();
            let size = size_of::<c_int>() as libc::socklen_t;
            libc::setsockopt(accepted, libc::IPPROTO_TCP, libc::TCP_NODELAY, value, size)
        };
        checked(set, "TCP_NODELAY");
        add(poll, accepted);
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (Some(length), Some(file)) = (arguments.next(), arguments.next()) else {
        panic!("usage: floor REQUEST_BYTES ANSWER_FILE");
    };
    let request_bytes: usize = length.parse().expect("REQUEST_BYTES");
    let answer = std::fs::read(file).expect("ANSWER_FILE");
    let answers = answer.repeat(ANSWERS_MAX);

    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    listener.set_nonblocking(true).expect("nonblocking");
    println!("{}", listener.local_addr().expect("address").port());
    std::io::stdout().flush().expect("stdout");
    let listener = listener.into_raw_fd();

    // SAFETY: no pointers.
    let poll = checked(unsafe { libc::epoll_create1(EPOLL_CLOEXEC) }, "epoll_create1");
    add(poll, listener.as_raw_fd());
    let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS_MAX];
    let mut buffer = vec![0u8; READ_BYTES];
    // Bytes of the request that has begun, by descriptor.
    let mut begun = vec![0usize; DESCRIPTORS_MAX];
    loop {
        // SAFETY: the vector holds EVENTS_MAX events.
        let count = unsafe { libc::epoll_wait(poll, events.as_mut_ptr(), EVENTS_MAX as c_int, -1) };
        for event in &events[..checked(count, "epoll_wait") as usize] {
            let descriptor = event.u64 as c_int;
            if descriptor == listener {
                accept_all(listener, poll);
                continue;
            }
            // SAFETY: the buffer holds READ_BYTES bytes.
            let read = unsafe { libc::read(descriptor, buffer.as_mut_ptr().cast(), READ_BYTES) };
            if read <= 0 {
                begun[descriptor as usize] = 0;
                // SAFETY: the descriptor is ours and is not used again.
                unsafe { libc::close(descriptor) };
                continue;
            }
            let bytes = begun[descriptor as usize] + read as usize;
            begun[descriptor as usize] = bytes % request_bytes;
            let due = bytes / request_bytes * answer.len();
            if due == 0 {
                continue;
            }
            let due = &answers[..due];
            // SAFETY: the slice is as long as it says.
            let written = unsafe { libc::write(descriptor, due.as_ptr().cast(), due.len()) };
            let is_gone = written < 0;
            assert!(is_gone || written as usize == due.len(), "the client does not read");
        }
    }
}
