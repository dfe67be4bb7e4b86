-- What was done to a bundle, for good.
insert into bundle_log (bundle, at, what, revision, who, detail) select i.bundle, {now}, i.what, i.revision, i.who, i.detail
from {rows bundle text, what text, revision text, who text, detail text}
