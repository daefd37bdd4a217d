//! Names of the kernel's functions, where it tells them.

/// The kernel's half of the address space begins here, on every machine that this is built for.
const KERNEL_START: u64 = 1 << 63;

/// True for an address in the kernel.
pub fn is_kernel(address: u64) -> bool {
    address >= KERNEL_START
}

/// The kernel's functions by address.
#[derive(Debug)]
pub struct KernelSymbols {
    /// Address, and where in `names` its name lies.
    functions: Vec<(u64, u32, u32)>,
    names: String,
}

impl KernelSymbols {
    /// Reads `/proc/kallsyms`; None where the kernel keeps its addresses to itself.
    pub fn read() -> Option<Self> {
        Self::parse(&std::fs::read_to_string("/proc/kallsyms").ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut functions = Vec::new();
        let mut names = String::new();
        for line in text.lines() {
            let mut fields = line.split_ascii_whitespace();
            let (Some(address), Some(kind), Some(name)) =
                (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            let address = u64::from_str_radix(address, 16).unwrap_or(0);
            // Without the right to see them, all addresses are 0.
            if is_kernel(address) && matches!(kind, "t" | "T" | "w" | "W") {
                functions.push((address, names.len() as u32, name.len() as u32));
                names.push_str(name);
            }
        }
        functions.sort_by_key(|(address, _, _)| *address);
        (!functions.is_empty()).then_some(Self { functions, names })
    }

    /// The function around `address`.
    pub fn find(&self, address: u64) -> Option<&str> {
        let next = self.functions.partition_point(|(start, _, _)| *start <= address);
        let (_, at, length) = self.functions.get(next.checked_sub(1)?)?;
        self.names.get(*at as usize..(*at + *length) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_found_by_address() {
        let text = "ffffffff81000000 T _stext\nffffffff81000200 t do_it\t[module]\n\
                    ffffffff81000100 D data\n0000000000000000 T hidden\n";
        let symbols = KernelSymbols::parse(text).expect("two functions");
        assert_eq!(symbols.find(0xffff_ffff_8100_01ff), Some("_stext"));
        assert_eq!(symbols.find(0xffff_ffff_8100_0200), Some("do_it"));
        assert_eq!(symbols.find(0xffff_ffff_80ff_ffff), None);
        assert!(KernelSymbols::parse("0000000000000000 T _stext\n").is_none());
    }
}
