#!/bin/sh
# A hook of mmdebstrap: downloads a kernel and its headers to $FETCH_TO, from the lists of packages that the system is
# made of. $KERNEL is what follows "linux-image-" in the name of Debian's metapackage.
set -eu
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
cd "$FETCH_TO"
needs() {
    apt-cache depends --important "$1" | sed -n "s/^ *Depends: \(linux-$2-[a-z0-9.+-]*\)\$/\1/p"
}
image=$(needs "linux-image-$KERNEL" image)
headers=$(needs "linux-headers-$KERNEL" headers)
# Unquoted: a list of names.
apt-get -qq -o APT::Sandbox::User=root download "${image:?}" "${headers:?}" $(needs "$headers" headers) $(needs "$headers" kbuild)
