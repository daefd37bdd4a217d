//! Huge pages, for the windows of large fleets alone.
//!
//! Samples come from devices in no order. With pages of 4 KiB the core must look up the address of nearly each window in tables
//! that have outgrown its caches, which takes as long as the memory itself. Pages of 2 MiB have a five hundredth of the entries.
//! Everything else in the process is better off without: an idle server would hold memory that it does not use.

/// Bytes of a huge page, on x86-64, and on ARM with pages of 4 KiB.
const HUGE_PAGE_BYTES: usize = 2 << 20;
/// `PR_THP_DISABLE_EXCEPT_ADVISED`, of Linux 6.18.
const EXCEPT_ADVISED: libc::c_ulong = 1 << 1;
/// Which memory of all processes has huge pages.
const SYSTEM_MODE: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

/// From now on only what [`advise`] names has huge pages. Where the system gives them to all memory, and the kernel is too
/// old for this exception, nothing has them.
pub fn allow_where_advised() {
    let set = |is_disabled: bool, flags: libc::c_ulong| {
        let disable = libc::c_ulong::from(is_disabled);
        // SAFETY: no argument is a pointer. A kernel that does not know the option changes nothing.
        unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, disable, flags, 0, 0) == 0 }
    };
    if !set(true, EXCEPT_ADVISED) {
        let mode = std::fs::read_to_string(SYSTEM_MODE).unwrap_or_default();
        set(!mode.contains("[madvise]"), 0);
    }
}

/// Asks for huge pages of memory that has not been written so far, with what lies around it in the same pages. It is advice:
/// without room for huge pages the memory has small ones.
pub fn advise<T>(memory: &[T]) {
    let bytes = memory.as_ptr_range();
    let start = bytes.start.addr() & !(HUGE_PAGE_BYTES - 1);
    let end = bytes.end.addr().next_multiple_of(HUGE_PAGE_BYTES);
    let start_pointer = bytes.start.cast_mut().cast::<libc::c_void>().with_addr(start);
    // SAFETY: it changes how memory is mapped, and not what is in it, whoever owns it. Nothing is read through the pointer.
    unsafe { libc::madvise(start_pointer, end - start, libc::MADV_HUGEPAGE) };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The flags of the mapping that has this address, from proc(5).
    fn flags_at(address: usize) -> String {
        let maps = std::fs::read_to_string("/proc/self/smaps").expect("Linux has it");
        let mut is_inside = false;
        for line in maps.lines() {
            let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
            let ends =
                range.map(|(start, end)| [start, end].map(|at| usize::from_str_radix(at, 16)));
            if let Some([Ok(start), Ok(end)]) = ends {
                is_inside = (start..end).contains(&address);
            }
            if let Some(flags) = line.strip_prefix("VmFlags:")
                && is_inside
            {
                return format!("{flags} ");
            }
        }
        panic!("no mapping has {address:x}");
    }

    #[test]
    fn memory_that_was_named_may_have_huge_pages() {
        if !std::fs::exists(SYSTEM_MODE).unwrap_or(false) {
            // The kernel has none.
            return;
        }
        let mut memory: Vec<u64> = Vec::with_capacity(HUGE_PAGE_BYTES);
        advise(memory.spare_capacity_mut());
        let flags = flags_at(memory.as_ptr().addr() + HUGE_PAGE_BYTES);
        assert!(flags.contains(" hg "), "{flags}");
    }
}
