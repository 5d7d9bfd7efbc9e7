package web

import (
	"cmp"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/osism/skopeo-worker/shared/failure"
)

const (
	// failuresPage is how many repositories a page lists.
	failuresPage = 50
	// imagesShown is how many images the page lists per reason. The page of one repository lists all.
	imagesShown = 40
)

// failuresView is the page Failures.
type failuresView struct {
	Search       string
	Repository   string // the only repository on the page; empty: all
	Repositories []repositoryRow
	Found        int // repositories
	Images       int // of these repositories
	paging
}

// repositoryRow is a repository with its failures, grouped by reason.
type repositoryRow struct {
	failure.Record
	Name    string // for links
	Reasons []reasonRow
	First   time.Time
	Left    bool // all images have left the list
}

// reasonRow is a reason with the images that have failed for it.
type reasonRow struct {
	Reason   string
	Images   []failure.Image
	Attempts int // of the image with the most
}

// failedRow is an image with its short name.
type failedRow struct{ Tag, Source string }

// Shown returns at most most images of the reason.
func (r reasonRow) Shown(most int) []failedRow {
	var rows []failedRow
	for _, i := range r.Images[:min(len(r.Images), most)] {
		rows = append(rows, failedRow{tagOf(i.Source), i.Source})
	}
	return rows
}

// tagOf returns the tag or digest of a reference in short form.
func tagOf(source string) string {
	if _, digest, ok := strings.Cut(source, "@"); ok {
		return short(digest)
	}
	if i := strings.LastIndexByte(source, ':'); i > strings.LastIndexByte(source, '/') {
		return source[i+1:]
	}
	return "the repository itself"
}

func failures(site *Site, p mirrorPage, r *http.Request) (view, error) {
	records, err := site.Failures.List(r.Context(), p.name)
	if err != nil {
		return view{}, err
	}
	v := failuresView{Search: strings.TrimSpace(r.URL.Query().Get("q")), Repository: r.URL.Query().Get("repository")}
	records = slices.DeleteFunc(records, func(r failure.Record) bool {
		return !matches(r, v.Search) || v.Repository != "" && r.Repository != v.Repository
	})
	v.Found = len(records)
	for _, r := range records {
		v.Images += len(r.Images)
	}
	if v.paging, err = newPaging(r, v.Found, failuresPage); err != nil {
		return view{}, err
	}
	for _, r := range records[v.from:v.to] {
		v.Repositories = append(v.Repositories, repositoryOf(r))
	}
	return view{Template: "failures", Title: "Failures", Data: v}, nil
}

// Most returns how many images the page lists per reason.
func (v failuresView) Most() int {
	if v.Repository != "" {
		return math.MaxInt
	}
	return imagesShown
}

// matches reports whether a repository, an image or a reason of the record contains the text.
func matches(r failure.Record, text string) bool {
	text = strings.ToLower(text)
	has := func(s string) bool { return strings.Contains(strings.ToLower(s), text) }
	return has(r.Repository) || slices.ContainsFunc(r.Images, func(i failure.Image) bool { return has(i.Source) || has(i.Reason) })
}

// repositoryOf groups the images of a record by reason. Reasons that differ only in the tag or digest
// of their image are equal.
func repositoryOf(r failure.Record) repositoryRow {
	row := repositoryRow{Record: r, Name: r.Repository, First: r.FailedAt, Left: true}
	at := map[string]int{}
	for _, i := range r.Images {
		row.Left = row.Left && !i.LeftList.IsZero()
		if !i.FirstFailed.IsZero() && i.FirstFailed.Before(row.First) {
			row.First = i.FirstFailed
		}
		folded := i.Reason
		if tag := tagOf(i.Source); len(tag) > 3 {
			folded = strings.ReplaceAll(folded, tag, "…")
		}
		n, ok := at[folded]
		if !ok {
			n = len(row.Reasons)
			at[folded] = n
			row.Reasons = append(row.Reasons, reasonRow{Reason: i.Reason})
		}
		reason := &row.Reasons[n]
		reason.Images = append(reason.Images, i)
		reason.Attempts = max(reason.Attempts, i.Attempts)
	}
	slices.SortStableFunc(row.Reasons, func(a, b reasonRow) int { return cmp.Compare(len(b.Images), len(a.Images)) })
	return row
}

// paging is the part of a list that a page shows.
type paging struct {
	Page, Pages int // from 1
	from, to    int
}

// pageNumber returns the number of the part of a list that the query names, the first one by default.
func pageNumber(r *http.Request) (int, error) {
	text := r.URL.Query().Get("page")
	if text == "" {
		return 1, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		return 0, fmt.Errorf("%w: page: expected a number, 1 or more", errBadRequest)
	}
	return n, nil
}

func checkPage(r *http.Request) error {
	_, err := pageNumber(r)
	return err
}

// newPaging returns the part of a list that the query names.
func newPaging(r *http.Request, total, size int) (paging, error) {
	p := paging{Page: 1, Pages: max(1, (total+size-1)/size)}
	n, err := pageNumber(r)
	if err != nil {
		return p, err
	}
	p.Page = min(n, p.Pages)
	p.from = min((p.Page-1)*size, total)
	p.to = min(p.from+size, total)
	return p, nil
}

// Before returns the number of the previous page, or 0.
func (p paging) Before() int { return p.Page - 1 }

// After returns the number of the next page, or 0.
func (p paging) After() int {
	if p.Page >= p.Pages {
		return 0
	}
	return p.Page + 1
}
