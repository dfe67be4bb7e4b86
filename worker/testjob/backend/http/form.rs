//! A form of files, streamed: what a submission is.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use reqwest::header::AUTHORIZATION;
use reqwest::multipart::{Form, Part};
use url::Url;

use super::{Client, Failure, HttpError, failure, place};

/// The most of an answer that is read.
const ANSWER: usize = 64 * 1024;

/// A file of a form. Its length is announced: servers behind WSGI read no body without one.
pub struct FormFile {
    /// The field.
    pub field: &'static str,
    /// The file's name.
    pub name: String,
    /// Its media type.
    pub mimetype: String,
    /// How many bytes there will be; fewer break the request off.
    pub length: u64,
    /// The bytes.
    pub data: BoxStream<'static, io::Result<Bytes>>,
}

impl std::fmt::Debug for FormFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FormFile({} {} {})", self.field, self.name, self.length)
    }
}

impl Client {
    /// Sends `files` once, and returns the answer's status and text, whatever the status is. Everything together may take
    /// `within`.
    ///
    /// # Errors
    ///
    /// Where there is no answer; whether the server took the form is not known then.
    pub async fn post_form(
        &self,
        url: &Url,
        files: Vec<FormFile>,
        within: Duration,
    ) -> Result<(u16, String), HttpError> {
        let mut form = Form::new();
        for file in files {
            let FormFile {
                field,
                name,
                mimetype,
                length,
                data,
            } = file;
            let part = Part::stream_with_length(reqwest::Body::wrap_stream(data), length)
                .file_name(name)
                .mime_str(&mimetype)
                .map_err(|error| HttpError::at(url, Failure::Setup(error.to_string())))?;
            form = form.part(field, part);
        }
        let mut request = self.files.post(url.clone()).multipart(form).timeout(within);
        if url.origin() == self.origin
            && let Some(authorization) = &self.authorization
        {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        let broken = |error: reqwest::Error| HttpError::at(url, failure(error));
        let mut response = request.send().await.map_err(broken)?;
        if place(response.url()) != place(url) {
            // A redirected POST arrives as a GET without its body.
            let to = format!("to {}; give that address", place(response.url()));
            return Err(HttpError::at(url, Failure::Redirect(to)));
        }
        let status = response.status().as_u16();
        let mut text = BytesMut::new();
        while text.len() < ANSWER
            && let Some(piece) = response.chunk().await.map_err(broken)?
        {
            text.extend_from_slice(&piece);
        }
        Ok((status, String::from_utf8_lossy(&text).into_owned()))
    }
}
