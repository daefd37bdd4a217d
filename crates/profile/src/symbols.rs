//! Addresses to functions, with those inlined into them.
//!
//! Reads the files that are mapped, each when the first of its addresses is asked for, and holds them
//! until it is dropped: a profile makes one, and what it took goes with it. DWARF tells inlined
//! functions and lines; without it, the symbol table tells functions.

use std::collections::HashMap;
use std::fs::File;
use std::rc::Rc;

use addr2line::Loader;
use object::read::elf::{FileHeader as _, ProgramHeader as _};
use object::{Object as _, ObjectSection as _, elf};

use super::kernel::{KernelSymbols, is_kernel};
use super::maps::{self, Mapping};

/// One function of a stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its full name.
    pub function: Rc<str>,
    /// Its source, empty when that is not known.
    pub file: Rc<str>,
    /// The line in it, 0 when that is not known.
    pub line: u32,
}

/// A mapping, and what is known of its file.
#[derive(Debug)]
pub struct Image {
    /// Where it lies.
    pub mapping: Mapping,
    /// The file's build id in hexadecimal, empty without one.
    pub build_id: String,
    /// What addresses in memory are ahead of those in the file.
    bias: u64,
}

/// A section of a file that tells how to unwind.
#[derive(Debug)]
pub struct UnwindTable {
    /// `.eh_frame`, or what goes with it.
    pub name: &'static str,
    /// Where it would lie, were the file not moved.
    pub svma: std::ops::Range<u64>,
    /// Its bytes.
    pub data: Vec<u8>,
}

/// The functions of this process.
pub struct Symbols {
    images: Vec<Image>,
    loaders: Vec<Option<Option<Loader>>>,
    /// Read when the first address of the kernel is asked for.
    kernel: Option<Option<KernelSymbols>>,
    known: HashMap<u64, Rc<[Frame]>>,
    texts: HashMap<String, Rc<str>>,
    /// Which functions to leave out, where they are the innermost.
    is_hidden: fn(&str) -> bool,
}

impl Symbols {
    /// Those of what is mapped now; without `/proc` there are none.
    pub fn of_this_process() -> Self {
        let mappings = maps::executable().unwrap_or_default();
        let images: Vec<_> = mappings.into_iter().map(Image::new).collect();
        let loaders = images.iter().map(|_| None).collect();
        Self {
            images,
            loaders,
            kernel: None,
            known: HashMap::new(),
            texts: HashMap::new(),
            is_hidden: |_| false,
        }
    }

    /// Leaves out the innermost of the functions at an address, as far as they are of such names; not
    /// where nothing would be left.
    pub fn hide(mut self, is_hidden: fn(&str) -> bool) -> Self {
        self.is_hidden = is_hidden;
        self
    }

    /// What is mapped.
    pub fn images(&self) -> &[Image] {
        &self.images
    }

    /// Which of [`Symbols::images`] holds the address.
    pub fn image_of(&self, address: u64) -> Option<usize> {
        let holds = |image: &Image| (image.mapping.start..image.mapping.end).contains(&address);
        self.images.iter().position(holds)
    }

    /// The functions at an address, innermost first: those inlined there, then the one that is called.
    /// Never empty; of a return address, ask for the byte before it.
    pub fn resolve(&mut self, address: u64) -> Rc<[Frame]> {
        if let Some(frames) = self.known.get(&address) {
            return frames.clone();
        }
        let mut frames = self.look_up(address);
        let hidden = frames.iter().take_while(|frame| (self.is_hidden)(&frame.function)).count();
        if hidden < frames.len() {
            frames.drain(..hidden);
        }
        if frames.is_empty() {
            frames.push(self.unnamed(address));
        }
        let frames: Rc<[Frame]> = frames.into();
        self.known.insert(address, frames.clone());
        frames
    }

    fn look_up(&mut self, address: u64) -> Vec<Frame> {
        if is_kernel(address) {
            let kernel = self.kernel.get_or_insert_with(KernelSymbols::read);
            let name = kernel.as_ref().and_then(|kernel| kernel.find(address));
            let name =
                name.map_or_else(|| "[kernel]".to_owned(), |name| format!("{name} [kernel]"));
            return vec![Frame { function: name.into(), file: "".into(), line: 0 }];
        }
        let Some(place) = self.image_of(address) else { return Vec::new() };
        let Image { mapping, bias, .. } = &self.images[place];
        let in_file = address.wrapping_sub(*bias);
        let loader = self.loaders[place].get_or_insert_with(|| open(mapping));
        let Some(loader) = loader else { return Vec::new() };
        let texts = &mut self.texts;
        let mut frames = Vec::new();
        // Err, here and below: damaged debug information, and the symbol table has the rest.
        if let Ok(mut found) = loader.find_frames(in_file) {
            while let Ok(Some(frame)) = found.next() {
                let Some(name) = &frame.function else { continue };
                let name = name.demangle().unwrap_or_default();
                let location = frame.location.as_ref();
                let file = location.and_then(|location| location.file).unwrap_or_default();
                frames.push(Frame {
                    function: shared(texts, &name),
                    file: shared(texts, file),
                    line: location.and_then(|location| location.line).unwrap_or(0),
                });
            }
        }
        // Line tables alone tell bare names; the symbol table has the full one of what is called.
        let symbol = match frames.last() {
            Some(frame) if frame.function.contains("::") => None,
            _ => loader.find_symbol(in_file),
        };
        if let Some(symbol) = symbol {
            let function = shared(texts, &addr2line::demangle_auto(symbol.into(), None));
            match frames.last_mut() {
                Some(frame) => frame.function = function,
                None => frames.push(Frame { function, file: "".into(), line: 0 }),
            }
        }
        frames
    }

    /// Names what it is in, for want of a function.
    fn unnamed(&self, address: u64) -> Frame {
        let name = match self.image_of(address) {
            None => "[unknown]".into(),
            Some(place) => {
                let path = &self.images[place].mapping.path;
                match path.rsplit_once('/') {
                    Some((_, name)) => format!("[{name}]").into(),
                    None => path.as_str().into(),
                }
            }
        };
        Frame { function: name, file: "".into(), line: 0 }
    }
}

/// One copy of each text.
fn shared(texts: &mut HashMap<String, Rc<str>>, text: &str) -> Rc<str> {
    match texts.get(text) {
        Some(known) => known.clone(),
        None => texts.entry(text.to_owned()).or_insert(text.into()).clone(),
    }
}

/// The file as it runs: the program itself may have been replaced since.
fn file_of(mapping: &Mapping) -> Option<std::path::PathBuf> {
    let program = std::env::current_exe().ok();
    let is_program = program.is_some_and(|program| program.to_str() == Some(&mapping.path));
    if is_program { Some("/proc/self/exe".into()) } else { Some(mapping.path.clone().into()) }
        .filter(|_| mapping.is_file())
}

fn table<'d>(
    object: &object::File<'d, impl object::ReadRef<'d>>,
    name: &'static str,
) -> Option<UnwindTable> {
    let section = object.section_by_name(name)?;
    let svma = section.address()..section.address() + section.size();
    // Of the others, where they are is enough.
    let data = if name.starts_with(".eh") { section.data().ok()?.to_vec() } else { Vec::new() };
    Some(UnwindTable { name, svma, data })
}

fn open(mapping: &Mapping) -> Option<Loader> {
    Loader::new(file_of(mapping)?).ok()
}

impl Image {
    fn new(mapping: Mapping) -> Self {
        let read = Self::read(&mapping);
        let (bias, build_id) = read.unwrap_or((mapping.start - mapping.offset, String::new()));
        Self { mapping, build_id, bias }
    }

    /// What addresses in memory are ahead of those in the file.
    pub fn bias(&self) -> u64 {
        self.bias
    }

    /// How to unwind what lies here; None where nobody knows.
    pub fn unwind_tables(&self) -> Option<Vec<UnwindTable>> {
        let tables = |object: &dyn Fn(&'static str) -> Option<UnwindTable>| {
            [".text", ".got", ".eh_frame", ".eh_frame_hdr"].into_iter().filter_map(object).collect()
        };
        if self.mapping.path == "[vdso]" {
            let length = (self.mapping.end - self.mapping.start) as usize;
            // SAFETY: the kernel maps its page for the life of the process, to be read.
            let bytes =
                unsafe { std::slice::from_raw_parts(self.mapping.start as *const u8, length) };
            let object = object::File::parse(bytes).ok()?;
            return Some(tables(&|name| table(&object, name)));
        }
        let file = File::open(file_of(&self.mapping)?).ok()?;
        let cache = object::ReadCache::new(file);
        let object = object::File::parse(&cache).ok()?;
        Some(tables(&|name| table(&object, name)))
    }

    /// How far the file was moved, and its build id.
    fn read(mapping: &Mapping) -> Option<(u64, String)> {
        let file = File::open(file_of(mapping)?).ok()?;
        let cache = object::ReadCache::new(file);
        let header = elf::FileHeader64::<object::Endianness>::parse(&cache).ok()?;
        let endian = header.endian().ok()?;
        let segment = header.program_headers(endian, &cache).ok()?.iter().find(|segment| {
            let start = segment.p_offset(endian);
            // The page where code begins may hold the end of another segment.
            segment.p_type(endian) == elf::PT_LOAD
                && segment.p_flags(endian).contains(elf::PF_X)
                && mapping.offset < start + segment.p_filesz(endian)
                && start < mapping.offset + (mapping.end - mapping.start)
        })?;
        let in_file = segment.p_vaddr(endian).wrapping_sub(segment.p_offset(endian));
        let bias = (mapping.start - mapping.offset).wrapping_sub(in_file);
        let build_id = object::File::parse(&cache).ok()?.build_id().ok()?.unwrap_or_default();
        Some((bias, build_id.iter().map(|byte| format!("{byte:02x}")).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[inline(never)]
    fn outer_function() -> u64 {
        inlined_function()
    }

    #[inline(always)]
    fn inlined_function() -> u64 {
        let mut address: u64;
        // SAFETY: reads the address of the next instruction, and nothing else.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            std::arch::asm!("lea {}, [rip]", out(reg) address);
        }
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        unsafe {
            std::arch::asm!("adr {}, .", out(reg) address);
        }
        address
    }

    #[test]
    fn functions_have_full_names_and_inlined_ones_are_listed() {
        let mut symbols = Symbols::of_this_process();
        let frames = symbols.resolve(outer_function() - 1);
        let names: Vec<_> = frames.iter().map(|frame| &*frame.function).collect();
        assert_eq!(names.len(), 2, "{names:?}");
        // Builds with line tables alone have bare names of what is inlined.
        assert!(names[0].ends_with("inlined_function"), "{names:?}");
        assert_eq!(names[1], "sigmad_profile::symbols::tests::outer_function");
        assert!(frames[0].file.ends_with("symbols.rs") && frames[0].line > 0);
        let place = symbols.image_of(outer_function()).expect("mapped");
        assert!(!symbols.images()[place].build_id.is_empty());
    }

    #[test]
    fn an_address_without_a_name_shows_its_image() {
        let mut symbols = Symbols::of_this_process();
        assert_eq!(&*symbols.resolve(1)[0].function, "[unknown]");
        assert!(symbols.resolve(u64::MAX - 4096)[0].function.ends_with("[kernel]"));
    }
}
