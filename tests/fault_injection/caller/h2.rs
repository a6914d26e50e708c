//! An HTTP/2 caller with prior knowledge.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use hyper::{Request, Version};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::{Answer, Got};

pub(crate) struct H2 {
    requests: SendRequest<Bytes>,
    ended: Arc<AtomicBool>,
    _driver: JoinSet<()>,
}

impl H2 {
    pub(crate) async fn connect(at: SocketAddr) -> Result<Self, String> {
        let stream = TcpStream::connect(at).await.map_err(|e| e.to_string())?;
        let (requests, connection) = h2::client::handshake(stream)
            .await
            .map_err(|e| e.to_string())?;
        let mut driver = JoinSet::new();
        let ended = Arc::<AtomicBool>::default();
        let ends = Arc::clone(&ended);
        driver.spawn(async move {
            // How it ends is seen by the requests on it.
            drop(connection.await);
            ends.store(true, Ordering::Relaxed);
        });
        Ok(Self {
            requests,
            ended,
            _driver: driver,
        })
    }

    pub(crate) fn is_open(&self) -> bool {
        !self.ended.load(Ordering::Relaxed)
    }

    /// A further handle on the same connection.
    pub(crate) fn requests(&self) -> SendRequest<Bytes> {
        self.requests.clone()
    }

    pub(crate) async fn ask(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        limit: Duration,
    ) -> Got {
        let deadline = Instant::now() + limit;
        let mut request = Request::builder()
            .method(method)
            .version(Version::HTTP_2)
            .uri(format!("http://localhost{target}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let Ok(request) = request.body(()) else {
            return Got::Garbled("a request that cannot be put".to_owned(), Vec::new());
        };
        let mut answer = Answer::default();
        let exchange = async {
            let mut requests = self.requests.clone().ready().await?;
            let (response, _) = requests.send_request(request, true)?;
            let (head, mut body) = response.await?.into_parts();
            answer.status = head.status.as_u16();
            for (name, value) in &head.headers {
                let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
                answer.headers.push((name.as_str().to_owned(), value));
            }
            answer.raw = format!("{:?} {:?}\n", head.status, answer.headers).into_bytes();
            while let Some(data) = body.data().await {
                let data = data?;
                // A window of its own bytes is always there to give back.
                let _ = body.flow_control().release_capacity(data.len());
                answer.raw.extend_from_slice(&data);
                answer.body.extend_from_slice(&data);
            }
            Ok::<_, h2::Error>(())
        };
        let end = timeout_at(deadline, exchange).await;
        match end {
            Ok(Ok(())) => Got::Whole(answer),
            Ok(Err(error)) if answer.status == 0 => Got::Closed(error.to_string()),
            Ok(Err(_)) => Got::Cut(answer),
            Err(_) => Got::Late(answer.raw),
        }
    }
}
