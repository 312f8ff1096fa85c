# Sourced by the scripts that take a Debian or Ubuntu package without root and without a change to the system.
#
#   open_private_apt FOLDER SUITE COMPONENT   make FOLDER ready for apt: lists, archives and `log` are in there
#   private_apt ARGUMENTS...                  apt-get with nothing of its state shared with the system
#
# Packages come through the package source that this system is configured with; signatures are checked with the
# system's keyring. The sourcing script has `fail MESSAGE`, which ends it, and has read /etc/os-release.

open_private_apt() {
  private=$1
  keyring=/usr/share/keyrings/$ID-archive-keyring.gpg
  [ -r "$keyring" ] || fail "cannot check signatures: $keyring is missing (package $ID-archive-keyring)"
  mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' |
    awk -v release="$VERSION_CODENAME" '$2 == release { print $1; exit }')
  [ -n "$mirror" ] || fail "apt has no source for $VERSION_CODENAME on this system"
  mkdir -p "$private/lists/partial" "$private/cache/archives/partial"
  : >"$private/status"
  printf 'deb [signed-by=%s] %s %s %s\n' "$keyring" "$mirror" "$2" "$3" >"$private/sources.list"
}

# Only apt's settings (a proxy, say) are the system's.
private_apt() {
  apt-get -q -o Dir::Etc::SourceList="$private/sources.list" -o Dir::Etc::SourceParts=/dev/null \
    -o Dir::State="$private" -o Dir::State::Lists="$private/lists" \
    -o Dir::State::Status="$private/status" -o Dir::Cache="$private/cache" \
    -o APT::Sandbox::User="$(id -un)" -o Acquire::Languages=none -o Acquire::Retries=3 \
    -o APT::Update::Error-Mode=any "$@" >>"$private/log" 2>&1
}
