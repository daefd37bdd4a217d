//! Copied stacks to return addresses, by the unwind tables that every binary has.

use framehop::{
    CacheNative, ExplicitModuleSectionInfo, MayAllocateDuringUnwind, Module, UnwindRegsNative,
    Unwinder as _, UnwinderNative,
};

use super::capture::Registers;
use super::symbols::Symbols;

/// Deeper stacks are cut at their root.
const FRAMES_MAX: usize = 256;

/// Unwinds the stacks of this process.
pub struct Unwinder {
    unwinder: UnwinderNative<Vec<u8>, MayAllocateDuringUnwind>,
    cache: CacheNative<MayAllocateDuringUnwind>,
}

impl Unwinder {
    /// Knows what `symbols` knows to be mapped.
    pub fn new(symbols: &Symbols) -> Self {
        let mut unwinder = UnwinderNative::new();
        for image in symbols.images() {
            let Some(tables) = image.unwind_tables() else { continue };
            let section = |name: &str| tables.iter().find(|table| table.name == name);
            let range = |name| section(name).map(|table| table.svma.clone());
            let data = |name| section(name).map(|table| table.data.clone());
            let sections = ExplicitModuleSectionInfo {
                base_svma: 0,
                text_svma: range(".text"),
                got_svma: range(".got"),
                eh_frame_svma: range(".eh_frame"),
                eh_frame: data(".eh_frame"),
                eh_frame_hdr_svma: range(".eh_frame_hdr"),
                eh_frame_hdr: data(".eh_frame_hdr"),
                ..ExplicitModuleSectionInfo::default()
            };
            let mapping = &image.mapping;
            unwinder.add_module(Module::new(
                mapping.path.clone(),
                mapping.start..mapping.end,
                image.bias(),
                sections,
            ));
        }
        Self { unwinder, cache: CacheNative::new() }
    }

    /// Appends where the thread was, then where each of its functions returns to.
    pub fn unwind(&mut self, registers: &Registers, stack: &[u8], into: &mut Vec<u64>) {
        let start = registers.sp;
        let mut read = |address: u64| {
            let at = usize::try_from(address.checked_sub(start).ok_or(())?).map_err(|_| ())?;
            let word = stack.get(at..at.checked_add(8).ok_or(())?).ok_or(())?;
            Ok(u64::from_ne_bytes(word.try_into().map_err(|_| ())?))
        };
        let regs = native(registers);
        let mut frames = self.unwinder.iter_frames(registers.pc, regs, &mut self.cache, &mut read);
        let deepest = into.len() + FRAMES_MAX;
        // Err: the stack ends here, as far as anybody can tell.
        while let Ok(Some(frame)) = frames.next() {
            into.push(frame.address());
            if into.len() == deepest {
                break;
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn native(registers: &Registers) -> UnwindRegsNative {
    UnwindRegsNative::new(registers.pc, registers.sp, registers.fp)
}

#[cfg(target_arch = "aarch64")]
fn native(registers: &Registers) -> UnwindRegsNative {
    UnwindRegsNative::new(registers.lr, registers.sp, registers.fp)
}
