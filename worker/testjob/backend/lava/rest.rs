//! LAVA's REST interface, version 0.2: pages of JSON.
//!
//! Invariants: it never takes a page that is missing for the end (every page must be read, and
//! their number of entries must be the announced one); never follows `next` to another host or
//! another list.
//!
//! Source of the format: the interface's own description at `/api/v0.2/` of any LAVA server.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use url::Url;

use crate::testjob::backend::BackendError;
use crate::testjob::backend::http::{Body, Client, Failure, HttpError, place};
use crate::testjob::backend::lava::results::Case;
use crate::testjob::backend::lava::{Cursor, Details, JobId, MAX_CASES, MAX_SUITES, Page, Suite};

/// Entries asked for in one page.
const PAGE: u64 = 500;

/// A LAVA server's REST interface.
#[derive(Debug)]
pub(super) struct Rest {
    client: Client,
    /// Ends with `/`.
    base: Url,
}

/// What we read of a test job.
#[derive(Debug, Deserialize)]
struct JobAnswer {
    state: String,
    #[serde(default)]
    health: Option<String>,
    #[serde(default)]
    definition: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    start_time: Option<String>,
    #[serde(default)]
    end_time: Option<String>,
}

#[derive(Debug, Deserialize)]
struct PageAnswer<T> {
    count: u64,
    next: Option<String>,
    results: Vec<T>,
}

#[derive(Debug, Deserialize)]
struct SuiteAnswer {
    id: Value,
    name: String,
}

impl Rest {
    /// `base` is the address of version 0.2, for instance `https://lava.example/api/v0.2/`.
    pub(super) fn new(client: Client, mut base: Url) -> Self {
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        Self { client, base }
    }

    pub(super) async fn details(&self, id: &JobId) -> Result<Details, BackendError> {
        let job: JobAnswer = self.client.json(&self.at(&format!("jobs/{id}/"))?).await?;
        Ok(Details {
            status: if job.state == "Finished" {
                job.health
            } else {
                None
            }
            .unwrap_or_else(|| job.state.clone()),
            state: job.state,
            definition: job.definition.filter(|text| !text.is_empty()),
            description: job.description,
            started: job.start_time,
            ended: job.end_time,
        })
    }

    pub(super) async fn suites(&self, id: &JobId) -> Result<Vec<Suite>, BackendError> {
        let mut url = self.at(&format!("jobs/{id}/suites/?limit={PAGE}&ordering=id"))?;
        let mut suites = Vec::new();
        loop {
            let page: PageAnswer<SuiteAnswer> = self.client.json(&url).await?;
            let count = page.count;
            suites.extend(page.results.into_iter().map(|suite| {
                Suite {
                    key: suite
                        .id
                        .as_str()
                        .map_or_else(|| suite.id.to_string(), str::to_owned),
                    name: suite.name,
                }
            }));
            if suites.len() > MAX_SUITES {
                return Err(BackendError::Final(format!(
                    "test job {id} has more than {MAX_SUITES} suites"
                )));
            }
            match next_page(&url, page.next.as_deref(), suites.len() as u64, count)? {
                Some(next) => url = next,
                None => return Ok(suites),
            }
        }
    }

    /// The page of `suite` at `cursor`.
    pub(super) async fn cases(
        &self,
        id: &JobId,
        suite: &Suite,
        cursor: Cursor,
    ) -> Result<Page, BackendError> {
        let first = format!(
            "jobs/{id}/suites/{}/tests/?limit={PAGE}&ordering=id",
            suite.key
        );
        let url = cursor.next.map_or_else(|| self.at(&first), Ok)?;
        let page: PageAnswer<Case> = self.json(&url).await?;
        let read = cursor.read + page.results.len() as u64;
        if read > MAX_CASES {
            return Err(BackendError::Final(format!(
                "suite {} has more than {MAX_CASES} tests",
                suite.name
            )));
        }
        let next = next_page(&url, page.next.as_deref(), read, page.count)?;
        Ok(Page {
            cases: page.results,
            next: next.map(|next| Cursor {
                read,
                next: Some(next),
            }),
        })
    }

    /// The log's stream, and `None` where the server has no log.
    pub(super) async fn log(&self, id: &JobId) -> Result<Option<Body>, BackendError> {
        match self
            .client
            .stream(&self.at(&format!("jobs/{id}/logs/"))?)
            .await
        {
            Ok(body) => Ok(Some(body)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn json<T: DeserializeOwned>(&self, url: &Url) -> Result<T, BackendError> {
        Ok(self.client.json(url).await?)
    }

    fn at(&self, path: &str) -> Result<Url, BackendError> {
        self.base
            .join(path)
            .map_err(|error| HttpError::at(&self.base, Failure::Setup(error.to_string())).into())
    }
}

/// Where the page after `current` is, after `read` of `count` entries; `None` if there is none.
///
/// LAVA behind a proxy may announce `http` where it is reached by `https`, so scheme and port are
/// those of `current`; host and path must be the same.
fn next_page(
    current: &Url,
    next: Option<&str>,
    read: u64,
    count: u64,
) -> Result<Option<Url>, BackendError> {
    let Some(next) = next else {
        if read != count {
            // Cut by somebody, or changed while it was read: either way another look helps.
            let list = place(current);
            return Err(BackendError::Temporary(format!(
                "read {list}: {read} entries came of {count}"
            )));
        }
        return Ok(None);
    };
    let wrong = |why: &str| -> BackendError {
        HttpError::at(current, Failure::Malformed(format!("its next page {why}"))).into()
    };
    let next = current.join(next).map_err(|_| wrong("is no address"))?;
    if next.host_str() != current.host_str() {
        return Err(wrong("is on another host"));
    }
    if next.path().trim_end_matches('/') != current.path().trim_end_matches('/') {
        return Err(wrong("is of another list"));
    }
    if next.query() == current.query() {
        return Err(wrong("is the same page"));
    }
    if read >= count {
        return Err(wrong("would be past the end"));
    }
    let mut url = current.clone();
    url.set_query(next.query());
    Ok(Some(url))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follow(next: Option<&str>, read: u64, count: u64) -> Result<Option<Url>, BackendError> {
        let current = Url::parse("https://lava.example/api/v0.2/jobs/1/suites/?limit=2").unwrap();
        next_page(&current, next, read, count)
    }

    #[test]
    fn a_next_page_stays_on_its_host_and_list() {
        let next = follow(
            Some("http://lava.example/api/v0.2/jobs/1/suites/?limit=2&offset=2"),
            2,
            3,
        )
        .unwrap();
        assert_eq!(
            next.unwrap().as_str(),
            "https://lava.example/api/v0.2/jobs/1/suites/?limit=2&offset=2"
        );
        for next in [
            "https://evil.example/api/v0.2/jobs/1/suites/?offset=2",
            "https://lava.example/api/v0.2/jobs/2/suites/?offset=2",
            "https://lava.example/api/v0.2/jobs/1/suites/?limit=2",
            "https://[",
        ] {
            assert!(
                matches!(follow(Some(next), 2, 3), Err(BackendError::Final(_))),
                "{next}"
            );
        }
    }

    #[test]
    fn fewer_entries_than_announced_are_no_end() {
        assert!(matches!(
            follow(None, 2, 3),
            Err(BackendError::Temporary(_))
        ));
        assert_eq!(follow(None, 3, 3).unwrap(), None);
    }
}
