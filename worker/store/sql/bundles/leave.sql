-- A worker no longer follows a bundle. Uses bundle_reports_pkey.
delete from bundle_reports where (bundle, worker) in (select i.bundle, i.worker from {rows bundle text, worker text})
returning worker
