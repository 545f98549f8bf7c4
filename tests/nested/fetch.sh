#!/bin/sh
# SPDX-License-Identifier: MIT
#
# tests/nested/fetch.sh - gets what the nested machine boots: a kernel, its KVM modules, a shell.
#
# usage: tests/nested/fetch.sh 6.1|6.12
#
# From Debian packages, which are unpacked and never installed: the cloud kernel that the suite's
# metapackage depends on today, and busybox-static. apt-get works in folders of its own, so it needs
# no privilege and the machine's lists and packages stay as they are; the mirror is the one
# that the machine's own sources name for its release.
#
# Leaves in build/nested/KERNEL: vmlinuz irqbypass.ko kvm.ko kvm-amd.ko busybox version, and in
# guest/ the modules for persistent memory, in this order: libnvdimm.ko nd_btt.ko nd_pmem.ko
# nd_e820.ko. What is there already is not fetched again: `version` is written last, and what an
# older version did not fetch is missed. One at a time, by a lock.
# Exit status: 0 there, 1 could not get it (with the reason), 2 usage.
set -u

cd "$(dirname "$0")/../.." || exit 1
kernel=${1:-}
case $kernel in
6.1) suites="bookworm bookworm-security" from=bookworm ;;
6.12) suites="bookworm bookworm-backports" from=bookworm-backports/ ;;
*)
	sed -n '6s/^# //p' tests/nested/fetch.sh >&2
	exit 2
	;;
esac
dir=build/nested/$kernel
[ ! -f "$dir/version" ] || [ ! -f "$dir/guest/nd_e820.ko" ] || exit 0

if [ -z "${NESTED_FETCH_LOCKED:-}" ]; then
	mkdir -p build/nested || exit 1
	NESTED_FETCH_LOCKED=1 exec flock -o build/nested/.lock tests/nested/fetch.sh "$@"
fi
unset NESTED_FETCH_LOCKED

work=$PWD/build/nested/fetch-$kernel
rm -rf "$work"
mkdir -p "$work/lists/partial" "$work/archives/partial" "$work/root" || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

fail() { # words...
	echo "nested: $*" >&2
	[ ! -s "$work/log" ] || tail -n 5 "$work/log" >&2
	exit 1
}

# The addresses that the machine gets its own release and that release's security updates from.
own_uri() { # suffix of the suite
	release=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)$1
	# shellcheck disable=SC2016 # fields for apt-get to fill in
	fields='$(CREATED_BY) $(COMPONENT) $(REPO_URI) $(RELEASE) $(CODENAME)'
	apt-get indextargets --format "$fields" | awk -v release="$release" '
		$1 == "Packages" && $2 == "main" && ($4 == release || $5 == release) {
			print $3
			exit
		}'
}

key=/usr/share/keyrings/debian-archive-keyring.gpg
[ -f "$key" ] && options="[signed-by=$key]" || options=
mirror=$(own_uri '')
[ -n "$mirror" ] || fail "the sources of apt name no Debian mirror for this release"
for suite in $suites; do
	case $suite in
	*-security) uri=$(own_uri -security) ;;
	*) uri=$mirror ;;
	esac
	[ -z "$uri" ] || echo "deb $options $uri $suite main"
done >"$work/sources.list"
: >"$work/status"

cat >"$work/apt.conf" <<-END
	Dir::Etc::sourcelist "$work/sources.list";
	Dir::Etc::sourceparts "-";
	Dir::Etc::preferences "-";
	Dir::Etc::preferencesparts "-";
	Dir::State "$work";
	Dir::State::lists "$work/lists";
	Dir::State::status "$work/status";
	Dir::Cache "$work";
	Dir::Cache::archives "$work/archives";
	APT::Architecture "amd64";
	APT::Architectures "amd64";
	APT::Sandbox::User "$(id -un)";
	Acquire::Languages "none";
	Acquire::Retries "3";
END
export APT_CONFIG="$work/apt.conf"

# The newest version of a package where the kernel is to come from.
newest() { # package
	apt-cache madison "$1" |
		awk -F ' *[|] *' -v from="$from" 'index($3, from) { print $2; exit }'
}

echo "nested: fetching a Linux $kernel kernel of Debian" >&2
apt-get update -q >"$work/log" 2>&1 || fail "apt-get update failed"
meta=linux-image-cloud-amd64
version=$(newest $meta)
[ -n "$version" ] || fail "$from has no $meta"
image=$(apt-cache show "$meta=$version" |
	sed -n 's/^Depends:.*\(linux-image-[0-9][^ ,]*\).*/\1/p' | head -n 1)
case $image in
linux-image-"$kernel".*) ;;
*) fail "$meta $version depends on '$image', not on a $kernel kernel" ;;
esac
(cd "$work" && apt-get download -q "$image=$version" busybox-static) >"$work/log" 2>&1 ||
	fail "could not download $image"
for package in "$work"/*.deb; do
	dpkg-deb -x "$package" "$work/root" || fail "could not unpack $package"
done

# Modules come compressed in newer kernels.
module() { # path below the kernel's drivers, without .ko; where to
	from=$work/root/lib/modules/${image#linux-image-}/kernel/$1.ko
	if [ -f "$from.xz" ]; then
		xz -dc "$from.xz" >"$2/${1##*/}.ko"
	else
		cp "$from" "$2/${1##*/}.ko"
	fi || fail "$image has no module $1"
}

mkdir -p "$dir/guest"
rm -f "$dir/version"
cp "$work/root/boot/vmlinuz-${image#linux-image-}" "$dir/vmlinuz" || fail "$image has no kernel"
module virt/lib/irqbypass "$dir"
module arch/x86/kvm/kvm "$dir"
module arch/x86/kvm/kvm-amd "$dir"
for name in libnvdimm nd_btt nd_pmem nd_e820; do
	module "drivers/nvdimm/$name" "$dir/guest"
done
cp "$work/root/bin/busybox" "$dir/busybox" || fail "busybox-static has no busybox"
echo "$image $version" >"$dir/version"
echo "nested: $image $version" >&2
