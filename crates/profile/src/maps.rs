//! What is mapped into this process and can be run: the program, its libraries, the kernel's page.

use std::io;

/// One mapping, a line of `/proc/self/maps`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Its first address.
    pub start: u64,
    /// The address behind its last.
    pub end: u64,
    /// Where in the file it begins.
    pub offset: u64,
    /// The file, or a name in brackets.
    pub path: String,
}

impl Mapping {
    /// True for a file: names in brackets are the kernel's.
    pub fn is_file(&self) -> bool {
        self.path.starts_with('/')
    }
}

/// The mappings with code in them, in the order of their addresses.
///
/// # Errors
/// Without `/proc`.
pub fn executable() -> io::Result<Vec<Mapping>> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    Ok(maps.lines().filter_map(parse).collect())
}

fn parse(line: &str) -> Option<Mapping> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let rights = fields.next()?;
    let offset = fields.next()?;
    let _device = fields.next()?;
    let _inode = fields.next()?;
    // A path may hold spaces; it begins with the first slash or bracket.
    let path = line.find(['/', '[']).map(|at| &line[at..])?;
    let hexadecimal = |text| u64::from_str_radix(text, 16).ok();
    let mapping = Mapping {
        start: hexadecimal(start)?,
        end: hexadecimal(end)?,
        offset: hexadecimal(offset)?,
        path: path.to_owned(),
    };
    rights.contains('x').then_some(mapping)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_with_code_are_found() {
        let line = "5581c0a00000-5581c0f00000 r-xp 001da000 fe:00 1234  /opt/with space/sigmad";
        let mapping = Mapping {
            start: 0x5581_c0a0_0000,
            end: 0x5581_c0f0_0000,
            offset: 0x1d_a000,
            path: "/opt/with space/sigmad".to_owned(),
        };
        assert_eq!(parse(line), Some(mapping));
        assert_eq!(parse("7f00-7f10 rw-p 00000000 00:00 0  [stack]"), None);
        assert_eq!(parse("7f00-7f10 r-xp 00000000 00:00 0"), None);
        let mappings = executable().expect("/proc");
        let this = lines_with_code_are_found as *const () as u64;
        assert!(mappings.iter().any(|m| m.is_file() && (m.start..m.end).contains(&this)));
    }
}
