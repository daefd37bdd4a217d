//! The messages of an Arrow IPC stream: checked before the library reads them.
//!
//! arrow-rs validates what is in the arrays, but trusts where a message says that they are: it panics when a buffer
//! is not within the body. Buffers that share bytes would let a small body take long to validate. So each message is
//! walked first (<https://arrow.apache.org/docs/format/IPC.html>, "Encapsulated message format").

use arrow_buffer::Buffer;
use arrow_ipc::{DictionaryBatch, Message, MessageHeader, RecordBatch, Schema, Type};

use super::super::fault::BodyError;
use sigmad_sample::QUEUE_SAMPLES_MAX;

/// Columns of one table: as many as one sample may have values.
const COLUMNS_MAX: usize = 1_024;
/// Begins each message since version 0.15 of the format.
const CONTINUATION: [u8; 4] = [0xff; 4];
/// Parts start at multiples of this.
const ALIGNMENT: usize = 8;

const COMPRESSED: BodyError = BodyError::Unsupported(
    "the buffers of an Arrow stream must not be compressed; compress the body: Content-Encoding: zstd",
);
const DELTA: BodyError = BodyError::Unsupported(
    "an Arrow stream must not have dictionary deltas; send the whole dictionary",
);
const COLUMNS: BodyError = BodyError::Unsupported("an Arrow stream may have up to 1024 columns");
const NESTED: BodyError = BodyError::Unsupported(
    "the columns of an Arrow stream must be numbers, texts, booleans, dates or times: no lists, structs or unions",
);

/// Checks all messages of a stream.
pub(super) fn check(stream: &[u8]) -> Result<(), BodyError> {
    let mut at = 0;
    let mut rows = 0;
    while let Some(frame) = Frame::read(stream, at)? {
        let malformed = BodyError::Malformed { offset: at };
        rows += check_message(&frame.message, frame.body_bytes, malformed)?;
        if rows > QUEUE_SAMPLES_MAX {
            return Err(BodyError::TooManySamples);
        }
        at = frame.end;
    }
    Ok(())
}

/// One message in a stream.
struct Frame<'s> {
    message: Message<'s>,
    body_bytes: usize,
    /// Where the next one begins.
    end: usize,
}

impl<'s> Frame<'s> {
    /// The message at `start`, None at the end of the stream.
    fn read(stream: &'s [u8], start: usize) -> Result<Option<Self>, BodyError> {
        let malformed = BodyError::Malformed { offset: start };
        if start == stream.len() {
            return Ok(None);
        }
        let four = |at: usize| stream.get(at..)?.first_chunk::<4>().copied();
        let mut at = start;
        let mut first = four(at).ok_or(malformed)?;
        at += 4;
        if first == CONTINUATION {
            first = four(at).ok_or(malformed)?;
            at += 4;
        }
        let length = u32::from_le_bytes(first) as usize;
        if length == 0 {
            return if at == stream.len() { Ok(None) } else { Err(malformed) };
        }
        let metadata = stream.get(at..at + length).ok_or(malformed)?;
        if !at.is_multiple_of(ALIGNMENT) {
            return Err(malformed);
        }
        let message = arrow_ipc::root_as_message(metadata).map_err(|_| malformed)?;
        let body_bytes = usize::try_from(message.bodyLength()).map_err(|_| malformed)?;
        let rest = stream.len() - at - length;
        if body_bytes > rest {
            return Err(malformed);
        }
        Ok(Some(Self { message, body_bytes, end: at + length + body_bytes }))
    }
}

/// The rows of a message that can be read.
fn check_message(
    message: &Message<'_>,
    body_bytes: usize,
    malformed: BodyError,
) -> Result<usize, BodyError> {
    match message.header_type() {
        MessageHeader::Schema => {
            check_schema(message.header_as_schema().ok_or(malformed)?, malformed)?;
            Ok(0)
        }
        MessageHeader::RecordBatch => {
            let batch = message.header_as_record_batch().ok_or(malformed)?;
            check_batch(batch, body_bytes, malformed)
        }
        MessageHeader::DictionaryBatch => {
            let dictionary = message.header_as_dictionary_batch().ok_or(malformed)?;
            check_dictionary(dictionary, body_bytes, malformed)?;
            Ok(0)
        }
        _ => Err(malformed),
    }
}

fn check_schema(schema: Schema<'_>, malformed: BodyError) -> Result<(), BodyError> {
    let fields = schema.fields().ok_or(malformed)?;
    if fields.len() > COLUMNS_MAX {
        return Err(COLUMNS);
    }
    for field in fields {
        let is_flat = matches!(
            field.type_type(),
            Type::Null
                | Type::Bool
                | Type::Int
                | Type::FloatingPoint
                | Type::Decimal
                | Type::Date
                | Type::Time
                | Type::Timestamp
                | Type::Duration
                | Type::Utf8
                | Type::LargeUtf8
                | Type::Utf8View
                | Type::Binary
                | Type::LargeBinary
                | Type::BinaryView
        );
        if !is_flat || field.children().is_some_and(|children| !children.is_empty()) {
            return Err(NESTED);
        }
    }
    Ok(())
}

fn check_dictionary(
    dictionary: DictionaryBatch<'_>,
    body_bytes: usize,
    malformed: BodyError,
) -> Result<(), BodyError> {
    if dictionary.isDelta() {
        return Err(DELTA);
    }
    check_batch(dictionary.data().ok_or(malformed)?, body_bytes, malformed)?;
    Ok(())
}

/// Checks that the buffers are within the body, and do not share bytes. Returns the rows.
fn check_batch(
    batch: RecordBatch<'_>,
    body_bytes: usize,
    malformed: BodyError,
) -> Result<usize, BodyError> {
    if batch.compression().is_some() {
        return Err(COMPRESSED);
    }
    let mut used = 0;
    for buffer in batch.buffers().into_iter().flatten() {
        let offset = usize::try_from(buffer.offset()).map_err(|_| malformed)?;
        let length = usize::try_from(buffer.length()).map_err(|_| malformed)?;
        used += length;
        if offset.checked_add(length).is_none_or(|end| end > body_bytes) || used > body_bytes {
            return Err(malformed);
        }
    }
    // The least buffers of a view: validity and views.
    let mut views = batch.variadicBufferCounts().into_iter().flatten();
    let has_counts = views.all(|count| (0..=COLUMNS_MAX as i64).contains(&count));
    for node in batch.nodes().into_iter().flatten() {
        if !(0..=batch.length()).contains(&node.length())
            || !(0..=node.length()).contains(&node.null_count())
        {
            return Err(malformed);
        }
    }
    let rows = usize::try_from(batch.length()).map_err(|_| malformed)?;
    if has_counts { Ok(rows) } else { Err(malformed) }
}

/// A copy of the body in memory that is aligned as arrays must be.
pub(super) fn aligned(body: &[u8]) -> Buffer {
    let mut memory = arrow_buffer::MutableBuffer::with_capacity(body.len());
    memory.extend_from_slice(body);
    memory.into()
}
