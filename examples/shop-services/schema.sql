-- The tables of the plain shop, and one that belongs to the inventory. Applied once to an empty database.
\i ../shop/schema.sql

-- Stock that was taken, under the name that an order gave. It stays: a call that is repeated finds it.
create table reservations (
    name       varchar(400) primary key,
    lines      jsonb        not null, -- {product: quantity}
    created_at timestamptz  not null default now(),
    settled    boolean      not null default false -- its order is there
);
