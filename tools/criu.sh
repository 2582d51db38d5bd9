#!/usr/bin/env bash
# Put CRIU of Debian 14, with the libraries that it needs, into a folder of its own: `criu.sh FOLDER`.
# Debian 12's is too old for any kernel that boxes need, and Debian 13's for Linux 6.16 and newer; the new one needs a newer
# C library than they have, and the host's own packages stay as they are. apt checks the signatures, from the mirror that
# the host itself uses.

set -Eeuo pipefail

target=$1
release=forky
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# The mirror of Debian that images come from, or that this host uses.
mirror() {
  [[ -n ${CORRAL_DEBIAN_MIRROR:-} ]] && echo "$CORRAL_DEBIAN_MIRROR" && return
  apt-get indextargets --format '$(ORIGIN) $(REPO_URI)' 'Created-By: Packages' 2> /dev/null |
    awk '$1 == "Debian" && $2 !~ /security/ { print $2; exit }'
}

work=$(mktemp --directory)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{lists,cache,state}/partial "$work/archives/partial"
touch "$work/status"
uri=$(mirror)
[[ -n $uri ]] || { echo "no mirror of Debian: set CORRAL_DEBIAN_MIRROR to the address of one"; exit 1; }
cat > "$work/debian.sources" << END
Types: deb
URIs: $uri
Suites: $release
Components: main
Signed-By: $keyring
END
options=(
  -o "Dir::State=$work/state" -o "Dir::State::status=$work/status" -o "Dir::State::Lists=$work/lists"
  -o "Dir::Cache=$work/cache" -o "Dir::Cache::archives=$work/archives"
  -o "Dir::Etc::SourceList=$work/debian.sources" -o Dir::Etc::SourceParts=/dev/null
  -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null
  -o APT::Sandbox::User=root -o APT::Install-Recommends=false -o Acquire::Languages=none -o Acquire::Retries=3
)
apt-get "${options[@]}" update
# Nothing is installed: the host counts as one without any package, and all that CRIU needs is fetched.
apt-get "${options[@]}" --yes --download-only install criu
mkdir "$work/root"
for package in "$work"/archives/*.deb; do dpkg-deb --extract "$package" "$work/root"; done
rm -rf "$work/root/usr/share"
chmod 0755 "$work/root"
mkdir -p "$(dirname "$target")"
rm -rf "$target.new"
cp -a "$work/root" "$target.new"
rm -rf "$target"
mv "$target.new" "$target"
