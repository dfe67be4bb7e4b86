//! Published rows as the files of a submission, a page at a time.
//!
//! Each stream yields the same bytes each time for as long as its runs are visible, so that a first pass can count them.

use std::collections::VecDeque;
use std::io;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt as _, TryStreamExt as _, try_unfold};
use serde_json::{Value, json};

use crate::store::{FileView, StagedMetric, StagedTest, Store, StoreError};

pub(super) type Data = BoxStream<'static, io::Result<Bytes>>;

/// How many bytes there are.
pub(super) async fn length(data: Data) -> io::Result<u64> {
    data.try_fold(0, |sum, piece| async move { Ok(sum + piece.len() as u64) })
        .await
}

/// `{"suite/test": {"result": …, "log": …}, …}`.
pub(super) fn tests(store: &Store, runs: &[i64]) -> Data {
    let store = store.clone();
    object(runs, move |run, after| {
        let store = store.clone();
        async move {
            let page = store.staged_tests(run, after).await?;
            Ok(page.into_iter().map(test).collect())
        }
    })
}

/// `{"suite/metric": {"value": …, "unit": …}, …}`.
pub(super) fn metrics(store: &Store, runs: &[i64]) -> Data {
    let store = store.clone();
    object(runs, move |run, after| {
        let store = store.clone();
        async move {
            let page = store.staged_metrics(run, after).await?;
            Ok(page.into_iter().map(metric).collect())
        }
    })
}

/// A file's bytes.
pub(super) fn file(store: &Store, file: &FileView) -> Data {
    let state = (store.clone(), file.clone(), 0);
    try_unfold(state, |(store, file, after)| async move {
        let pieces = store
            .file_data(&file, after)
            .await
            .map_err(io::Error::other)?;
        let Some((last, _)) = pieces.last() else {
            return Ok(None);
        };
        let last = *last;
        let data: Vec<u8> = pieces.into_iter().flat_map(|(_, data)| data).collect();
        Ok(Some((Bytes::from(data), (store, file, last))))
    })
    .boxed()
}

/// The same as UTF-8: SQUAD takes no other text.
pub(super) fn text(data: Data) -> Data {
    try_unfold(
        (data, Vec::new(), false),
        |(mut data, mut rest, over)| async move {
            if over {
                return Ok(None);
            }
            let next = data.try_next().await?;
            if let Some(piece) = &next {
                rest.extend_from_slice(piece);
            }
            let over = next.is_none();
            let piece = valid(&mut rest, over);
            Ok::<_, io::Error>(Some((Bytes::from(piece), (data, rest, over))))
        },
    )
    .boxed()
}

/// Takes what is whole off the beginning of `bytes`, U+FFFD for what is no text; a character that may go on stays.
fn valid(bytes: &mut Vec<u8>, over: bool) -> String {
    let mut out = String::with_capacity(bytes.len());
    let mut kept = 0;
    let mut chunks = bytes.utf8_chunks().peekable();
    while let Some(chunk) = chunks.next() {
        out.push_str(chunk.valid());
        let broken = chunk.invalid();
        let may_go_on = !over
            && chunks.peek().is_none()
            && std::str::from_utf8(broken).is_err_and(|error| error.error_len().is_none());
        if may_go_on {
            kept = broken.len();
        } else if !broken.is_empty() {
            out.push(char::REPLACEMENT_CHARACTER);
        }
    }
    bytes.drain(..bytes.len() - kept);
    out
}

/// A JSON object of all entries (place, text) of `runs`, page by page.
fn object<F, Fut>(runs: &[i64], page: F) -> Data
where
    F: Fn(i64, i64) -> Fut + Send + 'static,
    Fut: Future<Output = Result<Vec<(i64, String)>, StoreError>> + Send,
{
    let runs = runs.iter().copied().collect::<VecDeque<_>>();
    // After the last run, `None`: the object is closed.
    let state = (Some(runs), 0, "{", page);
    try_unfold(state, |(runs, mut after, sign, page)| async move {
        let Some(mut runs) = runs else {
            return Ok(None);
        };
        while let Some(run) = runs.front() {
            let entries = page(*run, after).await.map_err(io::Error::other)?;
            let Some((last, _)) = entries.last() else {
                runs.pop_front();
                after = 0;
                continue;
            };
            let last = *last;
            let texts = entries.into_iter().map(|(_, text)| text);
            let text = format!("{sign}{}", texts.collect::<Vec<_>>().join(",\n"));
            return Ok(Some((Bytes::from(text), (Some(runs), last, ",\n", page))));
        }
        let end = if sign == "{" { "{}" } else { "}" };
        Ok(Some((Bytes::from(end), (None, 0, sign, page))))
    })
    .boxed()
}

fn test(test: StagedTest) -> (i64, String) {
    let StagedTest {
        seq,
        suite,
        name,
        result,
        log,
    } = test;
    // SQUAD knows of expected failures by its own known issues.
    let result = if result == "xfail" { "fail" } else { &result };
    let entry = match log {
        Some(log) => json!({ "result": result, "log": log }),
        None => json!(result),
    };
    (seq, format!("{}: {entry}", full_name(&suite, &name)))
}

fn metric(metric: StagedMetric) -> (i64, String) {
    let StagedMetric {
        seq,
        suite,
        name,
        value,
        unit,
        measurements,
    } = metric;
    let measured: Vec<f64> = serde_json::from_str(&measurements).unwrap_or_default();
    let value = match measured.as_slice() {
        [] | [_] => json!(value),
        several => json!(several),
    };
    let entry = json!({ "value": value, "unit": unit });
    (seq, format!("{}: {entry}", full_name(&suite, &name)))
}

/// A name in one piece, as JSON.
fn full_name(suite: &str, name: &str) -> Value {
    if suite == "/" {
        name.into()
    } else {
        format!("{suite}/{name}").into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_the_same_wherever_it_is_cut() {
        let bytes = b"caf\xc3\xa9 \xff \xe2\x82\xac \xe2\x82";
        let whole = "café \u{fffd} € \u{fffd}";
        for cut in 0..=bytes.len() {
            let (first, second) = bytes.split_at(cut);
            let mut rest = first.to_vec();
            let mut out = valid(&mut rest, false);
            rest.extend_from_slice(second);
            out.push_str(&valid(&mut rest, false));
            out.push_str(&valid(&mut rest, true));
            assert_eq!(out, whole, "cut at {cut}");
        }
    }
}
