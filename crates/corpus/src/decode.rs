//! Arrow IPC bytes to a record batch that is a view of them.
//!
//! The decoder of the library slices by some lengths and offsets of the file without asking, and would panic on a
//! damaged one, so they are checked here before it is called.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_buffer::Buffer;
use arrow_ipc::convert::try_fb_to_schema;
use arrow_ipc::reader::{FileDecoder, read_footer_length};
use arrow_ipc::{Block, root_as_footer, root_as_message};
use arrow_schema::{DataType, Field, Schema};

/// Decodes the only batch of the file, as views into `bytes`.
pub(crate) fn decode(bytes: bytes::Bytes, columns: &[Field]) -> Result<RecordBatch, String> {
    let buffer = Buffer::from(bytes);
    let footer = footer(&buffer)?;
    let footer =
        root_as_footer(footer).map_err(|error| format!("its footer does not parse ({error})"))?;
    let schema = footer.schema().ok_or("its footer holds no schema")?;
    check_parts(&schema)?;
    let schema =
        try_fb_to_schema(schema).map_err(|error| format!("its schema does not parse ({error})"))?;
    check_schema(&schema, columns)?;
    if footer
        .dictionaries()
        .is_some_and(|blocks| !blocks.is_empty())
    {
        return Err("it holds dictionaries".into());
    }
    let blocks = footer
        .recordBatches()
        .ok_or("its footer lists no record batch")?;
    if blocks.len() != 1 {
        return Err(format!(
            "it holds {} record batches and not one",
            blocks.len()
        ));
    }
    let block = *blocks.get(0);
    let (start, length) = extent(&block, buffer.len())?;
    let block_buffer = buffer.slice_with_length(start, length);
    check_message(&block, &block_buffer, start, columns)?;
    // Alignment is demanded so that a misaligned file is refused and not copied into memory.
    FileDecoder::new(Arc::new(schema), footer.version())
        .with_require_alignment(true)
        .read_record_batch(&block, &block_buffer)
        .map_err(|error| format!("its record batch is damaged ({error})"))?
        .ok_or_else(|| "its record batch is empty".into())
}

/// The bytes of the footer.
fn footer(file: &[u8]) -> Result<&[u8], String> {
    let Some((head, tail)) = file.split_last_chunk::<10>() else {
        return Err(format!("it ends after {} bytes", file.len()));
    };
    if !file.starts_with(b"ARROW1") {
        return Err("it does not begin like an Arrow file".into());
    }
    let length =
        read_footer_length(*tail).map_err(|_| "it does not end like an Arrow file".to_string())?;
    let start = (head.len().checked_sub(length)).ok_or("its footer is longer than the file")?;
    Ok(&head[start..])
}

/// Refuses a schema that would fill the memory: the parts of a flatbuffer may lie on top of each other, so that a small
/// file can tell of millions of fields.
fn check_parts(schema: &arrow_ipc::Schema) -> Result<(), String> {
    const MOST: usize = 64;
    let mut parts = schema.custom_metadata().map_or(0, |entries| entries.len());
    let mut pending = vec![schema.fields()];
    while let Some(fields) = pending.pop() {
        parts += fields.map_or(0, |fields| fields.len());
        if parts > MOST {
            return Err(format!("its schema has more than {MOST} parts"));
        }
        for field in fields.iter().flatten() {
            parts += field.custom_metadata().map_or(0, |entries| entries.len());
            pending.push(field.children());
        }
    }
    Ok(())
}

fn check_schema(schema: &Schema, columns: &[Field]) -> Result<(), String> {
    let found: Vec<&str> = schema
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .collect();
    let wanted: Vec<&str> = columns.iter().map(|field| field.name().as_str()).collect();
    if found != wanted {
        return Err(format!("its columns are {found:?} and not {wanted:?}"));
    }
    for (field, column) in schema.fields().iter().zip(columns) {
        if !same_type(field.data_type(), column.data_type()) {
            let (name, found, wanted) = (column.name(), field.data_type(), column.data_type());
            return Err(format!(
                "its column {name} is of type {found} and not {wanted}"
            ));
        }
    }
    Ok(())
}

/// Whether the types agree up to the name and nullability of list items, which writers choose differently.
fn same_type(one: &DataType, two: &DataType) -> bool {
    match (one, two) {
        (DataType::List(one), DataType::List(two)) => same_type(one.data_type(), two.data_type()),
        _ => one == two,
    }
}

/// Where the block lies in the file, in bytes.
fn extent(block: &Block, file: usize) -> Result<(usize, usize), String> {
    let parts = (
        usize::try_from(block.offset()),
        usize::try_from(block.metaDataLength()),
        usize::try_from(block.bodyLength()),
    );
    let (Ok(start), Ok(metadata), Ok(body)) = parts else {
        return Err("its record batch has a negative extent".into());
    };
    let length = (metadata.checked_add(body)).filter(|length| {
        // Eight bytes of prefix are read before any check of the decoder.
        metadata >= 8 && start.checked_add(*length).is_some_and(|end| end <= file)
    });
    length
        .map(|length| (start, length))
        .ok_or_else(|| "its record batch reaches beyond the file".into())
}

/// The width in bytes of what each buffer of a column holds: validity, then offsets or values, then children.
fn widths(data_type: &DataType) -> Vec<usize> {
    match data_type {
        DataType::Utf8 => vec![1, 4, 1],
        DataType::LargeUtf8 => vec![1, 8, 1],
        DataType::List(item) => [vec![1, 4], widths(item.data_type())].concat(),
        fixed => vec![1, fixed.primitive_width().unwrap_or(1)],
    }
}

/// Checks every length and offset of the message, which begins at `start` in the file, that the decoder would slice by
/// without asking.
fn check_message(
    block: &Block,
    bytes: &[u8],
    start: usize,
    columns: &[Field],
) -> Result<(), String> {
    let (metadata, body) = bytes.split_at(block.metaDataLength() as usize);
    let message = if metadata.starts_with(&[0xff; 4]) {
        &metadata[8..]
    } else {
        &metadata[4..]
    };
    let message = root_as_message(message)
        .map_err(|error| format!("its message does not parse ({error})"))?;
    let batch = message
        .header_as_record_batch()
        .ok_or("its message is no record batch")?;
    if batch.compression().is_some() {
        return Err("it is compressed and cannot be mapped".into());
    }
    let rows =
        u32::try_from(batch.length()).map_err(|_| format!("it claims {} rows", batch.length()))?;
    for node in batch.nodes().iter().flatten() {
        if u32::try_from(node.length()).is_err() || node.null_count() != 0 {
            return Err(format!(
                "a column of {rows} rows claims {} values and {} nulls",
                node.length(),
                node.null_count()
            ));
        }
    }
    check_buffers(&batch, start + metadata.len(), body.len(), columns)
}

/// Checks that every buffer lies inside the body (which begins at `start` in the file), aligned and of whole values.
fn check_buffers(
    batch: &arrow_ipc::RecordBatch,
    start: usize,
    body: usize,
    columns: &[Field],
) -> Result<(), String> {
    let widths: Vec<usize> = columns
        .iter()
        .flat_map(|column| widths(column.data_type()))
        .collect();
    let buffers = batch.buffers().ok_or("its record batch lists no buffers")?;
    if buffers.len() != widths.len() {
        return Err(format!(
            "its record batch lists {} buffers and not {}",
            buffers.len(),
            widths.len()
        ));
    }
    for (buffer, width) in buffers.iter().zip(widths) {
        let (Ok(offset), Ok(length)) = (
            usize::try_from(buffer.offset()),
            usize::try_from(buffer.length()),
        ) else {
            return Err("a column has a negative extent".into());
        };
        if offset.checked_add(length).is_none_or(|end| end > body) {
            return Err("a column reaches beyond its record batch".into());
        }
        // The map begins on a page, so the alignment in the file is the alignment in memory.
        if !(start + offset).is_multiple_of(8) || !length.is_multiple_of(width) {
            return Err("a column is not aligned".into());
        }
    }
    Ok(())
}
