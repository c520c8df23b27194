package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"strings"
)

// Header is the request header that carries a credential, "Bearer " and a token; it goes no further than this link.
const Header = "authorization"

const (
	tokenPrefix = "rm_"                 // by which tokens are known, to us and to scanners for secrets
	tokenBytes  = 32                    // random ones
	tokenLength = len(tokenPrefix) + 43 // with the bytes in base64url, unpadded
	hashPrefix  = "sha256:"
)

// digest is the SHA-256 of a token's text.
type digest [sha256.Size]byte

// NewToken makes a token, and the hash that a configuration has of it.
func NewToken() (token, hash string) {
	var b [tokenBytes]byte
	_, _ = rand.Read(b[:]) // never fails
	token = tokenPrefix + base64.RawURLEncoding.EncodeToString(b[:])
	d := hashOf(token)
	return token, hashPrefix + hex.EncodeToString(d[:])
}

// hashOf hashes a token. Preconditions: it has a token's length.
func hashOf(token string) digest {
	var b [tokenLength]byte
	copy(b[:], token)
	return sha256.Sum256(b[:])
}

// parseHash reads a hash as a configuration has it.
func parseHash(s string) (d digest, ok bool) {
	digits, ok := strings.CutPrefix(s, hashPrefix)
	if !ok || len(digits) != 2*len(d) {
		return d, false
	}
	_, err := hex.Decode(d[:], []byte(digits))
	return d, err == nil
}

// key is what a token is found by.
func (d *digest) key() uint64 { return binary.BigEndian.Uint64(d[:8]) }

// equal compares in constant time.
func (d *digest) equal(other *digest) bool { return subtle.ConstantTimeCompare(d[:], other[:]) == 1 }

// credential is what an authorization header holds.
type credential uint8

const (
	noCredential credential = iota
	foreign                 // not ours: another scheme, or what OpenAI's clients send for want of a key
	broken                  // meant to be ours, and not one
	bearer                  // a token that may exist
)

// parseCredential reads an authorization header's value.
func parseCredential(header string) (token string, _ credential) {
	if header == "" {
		return "", noCredential
	}
	scheme, rest, found := strings.Cut(header, " ")
	if !found || !strings.EqualFold(scheme, "bearer") {
		return "", foreign
	}
	token = strings.Trim(rest, " \t")
	body, ours := strings.CutPrefix(token, tokenPrefix)
	if !ours {
		return "", foreign
	}
	if len(token) != tokenLength {
		return "", broken
	}
	for i := range len(body) {
		switch c := body[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
		default:
			return "", broken
		}
	}
	return token, bearer
}
