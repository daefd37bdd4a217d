//! Bytes in Redis: a version, then a frame of zstd with a checksum.

/// The version of this form.
const FORM: u8 = 1;
/// Larger contents are refused: a full book has a tenth of it.
const CONTENT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The fastest level: what is packed is read once or twice.
const LEVEL: i32 = 1;

/// Packs some bytes.
pub fn pack(content: &[u8]) -> Vec<u8> {
    let packed = || {
        let mut compressor = zstd::bulk::Compressor::new(LEVEL)?;
        compressor.include_checksum(true)?;
        compressor.compress(content)
    };
    let mut bytes = vec![FORM];
    bytes.extend(packed().expect("packing into memory cannot fail"));
    bytes
}

/// The content of what [`pack`] made; None for anything else.
pub fn unpack(bytes: &[u8]) -> Option<Vec<u8>> {
    let (form, frame) = bytes.split_first()?;
    if *form != FORM {
        return None;
    }
    let length = zstd::zstd_safe::get_frame_content_size(frame).ok()??;
    let length = usize::try_from(length).ok().filter(|length| *length <= CONTENT_BYTES_MAX)?;
    zstd::bulk::decompress(frame, length).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_unpacked_and_damage_is_noticed() {
        for content in [&b""[..], b"a", &[7; 100_000], &(0..=255).collect::<Vec<u8>>()] {
            let packed = pack(content);
            assert_eq!(unpack(&packed).as_deref(), Some(content));
            for at in 0..packed.len() {
                let mut damaged = packed.clone();
                damaged[at] ^= 0x10;
                // One bit of the header of a frame says nothing.
                assert!(unpack(&damaged).is_none_or(|found| found == content), "{at}");
                assert_eq!(unpack(&packed[..at]), None);
            }
        }
    }
}
