# shellcheck shell=bash
# Sourced by the other scripts: sections with their times, and the summary that closes them.

# shellcheck disable=SC2034 # used by those who source this
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

if [[ -t 1 && -z ${NO_COLOR:-} ]]; then
  bold=$'\e[1m' red=$'\e[31m' green=$'\e[32m' dim=$'\e[2m' plain=$'\e[0m'
else
  bold='' red='' green='' dim='' plain=''
fi

say() { printf '%s==>%s %s\n' "$bold" "$plain" "$*"; }
note() { printf '%s    %s%s\n' "$dim" "$*" "$plain"; }
die() {
  printf '%serror:%s %s\n' "$red" "$plain" "$1" >&2
  shift
  for line in "$@"; do printf '       %s\n' "$line" >&2; done
  exit 1
}

section_names=()
section_results=()
section_seconds=()

# section NAME COMMAND...: runs the command under a heading and remembers how it went. It never ends the script: `summary` does.
section() {
  local name=$1 start=$SECONDS status=0
  shift
  printf '\n%s── %s%s\n' "$bold" "$name" "$plain"
  "$@" || status=$?
  section_names+=("$name")
  section_results+=("$status")
  section_seconds+=($((SECONDS - start)))
}

# summary TITLE: prints one line per section and fails if any of them did.
summary() {
  local i failed=0
  printf '\n%s── %s%s\n' "$bold" "$1" "$plain"
  for i in "${!section_names[@]}"; do
    if [[ ${section_results[i]} == 0 ]]; then
      printf '%sok  %s  %5d s  %s\n' "$green" "$plain" "${section_seconds[i]}" "${section_names[i]}"
    else
      printf '%sFAIL%s  %5d s  %s (exit status %d)\n' "$red" "$plain" "${section_seconds[i]}" "${section_names[i]}" "${section_results[i]}"
      failed=1
    fi
  done
  return "$failed"
}
