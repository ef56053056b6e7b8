#!/usr/bin/env bash
# Programs of the system that some tests need: redis-server, prometheus, and Chromium with its driver.
#   system_programs.sh install   installs what is missing with apt-get, where that is there and the user is root
#   system_programs.sh report    prints a line for each that is still missing: what was not tested, and how to install it
set -u
programs="redis-server prometheus chromium chromedriver"
package() { case $1 in chromedriver) echo chromium-driver ;; *) echo "$1" ;; esac; }
untested() {
  case $1 in
    redis-server) echo "supports in Redis" ;;
    prometheus) echo "alert rules and the dashboard" ;;
    *) echo "the playground in a browser" ;;
  esac
}
missing() { for program in $programs; do command -v "$program" >/dev/null || echo "$program"; done; }

case ${1:-} in
  install)
    wanted=$(for program in $(missing); do package "$program"; done)
    [ -n "$wanted" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || exit 0
    echo installing $wanted "with apt-get"
    (apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends $wanted) \
      >/dev/null 2>&1 || echo "apt-get could not install all of them"
    ;;
  report)
    for program in $(missing); do
      echo "not tested: $(untested "$program") ($program is missing; on Debian: apt-get install $(package "$program"))"
    done
    ;;
  *) sed -n '2,4s/^# //p' "$0"; exit 2 ;;
esac
