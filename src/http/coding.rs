pub enum Coding {
    Identity,
}
pub enum CodingError {
    Unknown,
    TooLarge,
    Corrupt,
}
impl Coding {
    pub fn parse(_v: &[u8]) -> Result<Coding, CodingError> {
        Err(CodingError::Unknown)
    }
}
pub fn unpack(_c: Coding, _b: &[u8], _l: usize, _i: &mut Vec<u8>) -> Result<(), CodingError> {
    Err(CodingError::Unknown)
}
