//! A client without any knowledge of Kubernetes, for what the server says on the wire.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::{Cluster, NAMESPACE};
use crate::harness::LIMIT;

pub(super) const MERGE: &str = "application/merge-patch+json";
pub(super) const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// Speaks to one cluster.
#[derive(Debug, Clone)]
pub(super) struct Client {
    http: reqwest::Client,
    url: String,
}

/// A status and a body.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) code: u16,
    pub(super) retry_after: Option<String>,
    pub(super) body: Value,
}

/// The lines of a watch.
#[derive(Debug)]
pub(super) struct Lines {
    response: reqwest::Response,
    text: Vec<u8>,
}

pub(super) fn pod_path(name: &str) -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/pods/{name}")
}

impl Client {
    pub(super) fn of(cluster: &Cluster) -> Self {
        // The first test of a process chooses; others find it chosen.
        drop(rustls::crypto::ring::default_provider().install_default());
        Self {
            http: reqwest::Client::builder()
                .user_agent("tester")
                .build()
                .unwrap(),
            url: cluster.url(),
        }
    }

    pub(super) async fn try_send(
        &self,
        method: Method,
        path: &str,
        content: &str,
        body: &Value,
        limit: Duration,
    ) -> reqwest::Result<Answer> {
        let request = self
            .http
            .request(method, format!("{}{path}", self.url))
            .timeout(limit);
        let request = request
            .header("content-type", content)
            .body(body.to_string());
        let response = request.send().await?;
        let retry_after = response.headers().get("retry-after");
        let retry_after = retry_after.map(|value| value.to_str().unwrap().to_owned());
        let code = response.status().as_u16();
        let body = serde_json::from_slice(&response.bytes().await?).unwrap_or_default();
        Ok(Answer {
            code,
            retry_after,
            body,
        })
    }

    async fn send(&self, method: Method, path: &str, content: &str, body: &Value) -> Answer {
        self.try_send(method, path, content, body, LIMIT)
            .await
            .unwrap()
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, "", &Value::Null).await
    }

    pub(super) async fn create(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, "application/json", body)
            .await
    }

    pub(super) async fn update(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::PUT, path, "application/json", body).await
    }

    pub(super) async fn patch(&self, path: &str, content: &str, body: &Value) -> Answer {
        self.send(Method::PATCH, path, content, body).await
    }

    pub(super) async fn delete(&self, path: &str, options: &Value) -> Answer {
        self.send(Method::DELETE, path, "application/json", options)
            .await
    }

    /// Evicts with `options` as `deleteOptions`.
    pub(super) async fn evict(&self, pod: &str, options: &Value) -> Answer {
        let eviction = json!({
            "apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": {"name": pod, "namespace": NAMESPACE}, "deleteOptions": options,
        });
        self.create(&format!("{}/eviction", pod_path(pod)), &eviction)
            .await
    }

    pub(super) async fn watch(&self, path: &str) -> Lines {
        let response = self
            .http
            .get(format!("{}{path}", self.url))
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 200);
        Lines {
            response,
            text: Vec::new(),
        }
    }
}

impl Lines {
    /// The next line; None at the end of the stream.
    pub(super) async fn next(&mut self) -> reqwest::Result<Option<Value>> {
        loop {
            if let Some(end) = self.text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.text.drain(..=end).collect();
                return Ok(Some(serde_json::from_slice(&line).unwrap()));
            }
            let chunk = tokio::time::timeout(LIMIT, self.response.chunk()).await;
            match chunk.expect("the watch says something")? {
                Some(chunk) => self.text.extend_from_slice(&chunk),
                None => return Ok(None),
            }
        }
    }

    /// The type and the object's name of the next line.
    pub(super) async fn event(&mut self) -> (String, String) {
        let line = self.next().await.unwrap().expect("the watch goes on");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (
            text(&line["type"]),
            text(&line["object"]["metadata"]["name"]),
        )
    }
}
