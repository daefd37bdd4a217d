//! The book of the cluster as it is in Redis, with what the next holder of the lease needs.

use sigmad_detectors::saved::Saved;
use sigmad_incidents::book::kept::BookError;
use sigmad_incidents::book::{Book, BookSettings};
use sigmad_incidents::shared::heard::Replica;

use super::packed;
use crate::incidents::shared::Forgotten;

/// The version of this form; that of the book is in it too.
const FORM: u16 = 1;
/// Deleted devices that a document names: each replica forgets them when it reads it.
pub const FORGOTTEN_MAX: usize = 256;

/// What is in Redis.
#[derive(Clone, Debug)]
pub struct Document {
    /// The book.
    pub book: Book,
    /// The number of the last order that is done.
    pub done: u64,
    /// Until when the ended claims of each replica are in the book.
    pub seen: Vec<(Replica, i64)>,
    /// Devices that operators have deleted, with the numbers of their orders.
    pub forgotten: Vec<(u64, Forgotten)>,
}

impl Document {
    /// Without incidents.
    pub fn new(settings: BookSettings) -> Self {
        let book = Book::new(settings);
        Self { book, done: 0, seen: Vec::new(), forgotten: Vec::new() }
    }

    /// The document in bytes.
    pub fn pack(&self, now_us: i64) -> Vec<u8> {
        let mut bytes = Vec::new();
        FORM.write(&mut bytes);
        self.done.write(&mut bytes);
        self.seen.write(&mut bytes);
        self.forgotten.write(&mut bytes);
        self.book.write(now_us, &mut bytes);
        packed::pack(&bytes)
    }

    /// Reads what [`Document::pack`] has made.
    pub fn unpack(settings: BookSettings, bytes: &[u8]) -> Result<Self, BookError> {
        let bytes = packed::unpack(bytes).ok_or(BookError::Broken)?;
        let mut from = &bytes[..];
        match u16::read(&mut from) {
            Some(FORM) => {}
            Some(version) if version > FORM => return Err(BookError::Newer(version)),
            _ => return Err(BookError::Broken),
        }
        let mut read = || {
            let done = Saved::read(&mut from)?;
            Some((done, Saved::read(&mut from)?, Saved::read(&mut from)?))
        };
        let (done, seen, forgotten) = read().ok_or(BookError::Broken)?;
        Ok(Self { book: Book::read(settings, 0, from)?, done, seen, forgotten })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sigmad_incidents::event::Event;
    use sigmad_incidents::list::ListQuery;

    #[test]
    fn a_document_is_read_as_it_was_written_and_damage_is_noticed() {
        let mut book = Book::new(BookSettings::default());
        book.apply(&Event::Silence {
            device: "a".into(),
            since_us: 5,
            at_us: 9,
            usual_interval_us: 2,
        });
        let forgotten = vec![(3, Forgotten { device: "b".into(), at_us: 7 })];
        let document = Document { book, done: 17, seen: vec![(1, 2)], forgotten };
        let bytes = document.pack(10);
        let read = Document::unpack(BookSettings::default(), &bytes).expect("as written");
        let query = || ListQuery { limit: 9, ..ListQuery::default() };
        assert_eq!(read.book.list(&query()), document.book.list(&query()));
        assert_eq!((read.done, &read.seen), (17, &document.seen));
        assert_eq!(read.forgotten, document.forgotten);
        for end in 0..bytes.len() {
            let error = Document::unpack(BookSettings::default(), &bytes[..end]);
            assert_eq!(error.expect_err("damaged"), BookError::Broken);
        }
        let newer = packed::pack(&(FORM + 1).to_le_bytes());
        let error = Document::unpack(BookSettings::default(), &newer).expect_err("newer");
        assert_eq!(error, BookError::Newer(FORM + 1));
    }
}
