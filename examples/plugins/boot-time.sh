#!/bin/sh
# A plugin for test jobs in a shell: how long the kernel took until it started `init`.
#
#   [plugins.boot-time]
#   command = ["examples/plugins/boot-time.sh"]
#
# Standard input and output are the worker's: one JSON object a line. Standard error is its log. The working directory
# is this plugin's own, and goes when it ends. Commands that read standard input would read the worker's words: give them
# a file, or </dev/null. See docs/plugins.md.
set -eu

read -r start # {"start":{"testjob":{"id":"1234","project":"group/project",…}}}
project=$(printf '%s\n' "$start" | sed -n 's/.*"project":"\([^"]*\)".*/\1/p')

echo '{"want":{"name":"log"}}'
read -r answer # {"file":{"name":"log","path":"/tmp/…/log"}}
log=$(printf '%s\n' "$answer" | sed -n 's/.*"path":"\([^"]*\)".*/\1/p')
if [ -z "$log" ]; then
  echo '{"problem":{"text":"boot-time: the test job has no log"}}'
  exit 0
fi

# [    4.125000] Run /sbin/init as init process
seconds=$(sed -n 's/^.*\[ *\([0-9]*\.[0-9]*\)\] Run [^ ]* as init process.*$/\1/p' "$log" | head -n 1)
if [ -n "$seconds" ]; then
  echo '{"test":{"suite":"boot","name":"reached-init","result":"pass"}}'
  echo "{\"metric\":{\"suite\":\"boot\",\"name\":\"time-to-init\",\"value\":$seconds,\"unit\":\"s\"}}"
else
  echo '{"test":{"suite":"boot","name":"reached-init","result":"fail"}}'
fi

# A file in the working directory becomes an attachment.
grep -c . "$log" >lines.txt || true
echo '{"attachment":{"name":"lines.txt","mimetype":"text/plain","path":"lines.txt"}}'
echo "looked at a log of $project" >&2
echo '{"done":{}}'
